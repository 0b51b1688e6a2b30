#!/usr/bin/env python3
"""The networks of Cosmos-Predict2 in diffusers, with random weights, on request: reads lines `CASE STEPS` from standard
input, answers each with one line of milliseconds per step. `bench/compare.py --suite cosmos` drives it.
"""

import sys
import time

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel


def dit():
    model = CosmosTransformer3DModel(
        in_channels=17, out_channels=16, num_attention_heads=8, attention_head_dim=128, num_layers=6, mlp_ratio=4.0,
        text_embed_dim=1024, adaln_lora_dim=256, max_size=(128, 240, 240), patch_size=(1, 2, 2),
        rope_scale=(1.0, 3.0, 3.0), concat_padding_mask=True, extra_pos_embed_type=None).eval()
    x, words, known = torch.randn(1, 16, 1, 60, 104), torch.randn(1, 512, 1024), torch.zeros(1, 1, 1, 60, 104)
    padding, times = torch.zeros(1, 1, 60, 104), torch.full((1, 1, 1, 1, 1), 0.5)
    return lambda: model(x, times, words, condition_mask=known, padding_mask=padding, return_dict=False)[0]


def vae(encodes):
    model = AutoencoderKLWan().eval()
    video, latent = torch.full((1, 3, 5, 96, 160), 0.25), torch.full((1, 16, 2, 12, 20), 0.25)
    return (lambda: model.encode(video).latent_dist.mode()) if encodes else (lambda: model.decode(latent).sample)


CASES = {"dit_1560": dit, "vae_encode": lambda: vae(True), "vae_decode": lambda: vae(False)}


def main():
    torch.manual_seed(0)
    loaded = {}
    for line in sys.stdin:
        name, count = line.split()
        if name not in loaded:
            loaded.clear()
            loaded[name] = CASES[name]()
        times = []
        with torch.inference_mode():
            for _ in range(int(count)):
                start = time.perf_counter()
                loaded[name]()
                times.append((time.perf_counter() - start) * 1e3)
        print(" ".join(f"{value:.4f}" for value in times), flush=True)


if __name__ == "__main__":
    main()
