"""GR00T-N1.6's networks in plain PyTorch, from a checkpoint's tensors: the other side of `bench/groot.py`.

Follows the structure of the reference (a module call for every layer, keys and values projected in every Euler step, time
embedded in every step), on a CPU in float32. `groot.py FOLDER` first checks that it computes what our side wrote to
`bench.safetensors`; then it answers lines `CASE STEPS` with milliseconds.
"""

import json
import math
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
eagle = json.loads((folder / "Eagle-Block2A-2B-v2/config.json").read_text())
w = {}
for shard in sorted(folder.glob("model-*.safetensors")):
    w |= load_file(shard)
io = load_file(folder / "bench.safetensors")
EMBODIMENT = 2
vision, text, dit = eagle["vision_config"], eagle["text_config"], config["diffusion_model_cfg"]


def linear(x, name):
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).flatten(2)


def norm(x, name, eps):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps)


def rms(x, name):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + text["rms_norm_eps"]) * w[name + ".weight"]


def see(patches):
    tower, eps, n = "backbone.model.vision_model.vision_model.", vision["layer_norm_eps"], vision["num_attention_heads"]
    table = w[tower + "embeddings.position_embedding.weight"]
    grid, side = math.isqrt(table.shape[0]), math.isqrt(patches.shape[1])
    table = table.T.reshape(1, -1, grid, grid)
    table = F.interpolate(table, (side, side), mode="bilinear", antialias=True, align_corners=False)
    x = linear(patches, tower + "embeddings.patch_embedding") + table.flatten(2).transpose(1, 2)
    for i in range(vision["num_hidden_layers"]):
        p = f"{tower}encoder.layers.{i}."
        h = norm(x, p + "layer_norm1", eps)
        q, k, v = (heads(linear(h, p + f"self_attn.{c}_proj"), n) for c in "qkv")
        x = x + linear(joined(F.scaled_dot_product_attention(q, k, v)), p + "self_attn.out_proj")
        h = F.gelu(linear(norm(x, p + "layer_norm2", eps), p + "mlp.fc1"), approximate="tanh")
        x = x + linear(h, p + "mlp.fc2")
    x = norm(x, tower + "post_layernorm", eps)
    x = F.pixel_unshuffle(x.transpose(1, 2).unflatten(2, (side, side)), 2).flatten(2).transpose(1, 2)
    x = norm(x, "backbone.model.mlp1.0", 1e-5)
    return linear(F.gelu(linear(x, "backbone.model.mlp1.1")), "backbone.model.mlp1.3")


def backbone():
    ids = io["ids"].long()
    name = "backbone.model.language_model.model."
    x = w[name + "embed_tokens.weight"][ids]
    x[ids == eagle["image_token_index"]] = see(io["patches"]).flatten(0, 1)
    x, n, width = x[None], text["num_attention_heads"], text["head_dim"]
    inverse = 1 / (text["rope_theta"] ** (torch.arange(0, width, 2) / width))
    angle = torch.outer(torch.arange(len(ids)).float(), inverse).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    turn = lambda x: x * cos + torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1) * sin
    for i in range(config["select_layer"]):
        p = f"{name}layers.{i}."
        h = rms(x, p + "input_layernorm")
        q = turn(rms(heads(linear(h, p + "self_attn.q_proj"), n), p + "self_attn.q_norm"))
        k = turn(rms(heads(linear(h, p + "self_attn.k_proj"), text["num_key_value_heads"]), p + "self_attn.k_norm"))
        v = heads(linear(h, p + "self_attn.v_proj"), text["num_key_value_heads"])
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + linear(joined(mixed), p + "self_attn.o_proj")
        h = rms(x, p + "post_attention_layernorm")
        h = F.silu(linear(h, p + "mlp.gate_proj")) * linear(h, p + "mlp.up_proj")
        x = x + linear(h, p + "mlp.down_proj")
    return rms(x, name + "norm")


def category(x, name):
    name = "action_head." + name
    return torch.baddbmm(w[name + ".b"][EMBODIMENT][None, None], x, w[name + ".W"][EMBODIMENT][None])


def mlp(x, name):
    return category(F.relu(category(x, name + ".layer1")), name + ".layer2")


def modulated(x, name, temb, eps, scale_first):
    a, b = linear(F.silu(temb), name).chunk(2, -1)
    scale, shift = (a, b) if scale_first else (b, a)
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale[:, None]) + shift[:, None]


def head(features):
    p, n = "action_head.model.", dit["num_attention_heads"]
    features = norm(features, "action_head.vlln", 1e-5)
    is_image = (io["ids"].long() == eagle["image_token_index"])[None, None, None]
    state, x = mlp(io["state"], "state_encoder"), io["noise"]
    steps, width = config["num_inference_timesteps"], config["input_embedding_dim"]
    for step in range(steps):
        bucket = torch.tensor([float(int(step / steps * config["num_timestep_buckets"]))])
        angle = bucket * torch.exp(-math.log(10000) * torch.arange(128) / 127)
        time_embedding = p + "timestep_encoder.timestep_embedder."
        temb = linear(torch.cat([angle.cos(), angle.sin()])[None], time_embedding + "linear_1")
        temb = linear(F.silu(temb), time_embedding + "linear_2")
        angle = bucket * torch.exp(-torch.arange(width // 2) * (math.log(10000) / (width // 2)))
        tau = torch.cat([angle.sin(), angle.cos()]).expand(1, x.shape[1], width)
        h = torch.cat([category(x, "action_encoder.W1"), tau], -1)
        h = category(F.silu(category(h, "action_encoder.W2")), "action_encoder.W3")
        h = torch.cat([state, h + w["action_head.position_embedding.weight"][: x.shape[1]]], 1)
        for i in range(dit["num_layers"]):
            b = f"{p}transformer_blocks.{i}."
            a = modulated(h, b + "norm1.linear", temb, 1e-5, True)
            source = a if i % 2 else features
            mask = None if i % 2 else is_image if i % (2 * config["attend_text_every_n_blocks"]) else ~is_image
            q, k, v = (heads(linear(y, b + "attn1.to_" + c), n) for y, c in ((a, "q"), (source, "k"), (source, "v")))
            mixed = joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
            h = h + linear(mixed, b + "attn1.to_out.0")
            a = F.gelu(linear(F.layer_norm(h, h.shape[-1:], eps=1e-5), b + "ff.net.0.proj"), approximate="tanh")
            h = h + linear(a, b + "ff.net.2")
        h = linear(modulated(h, p + "proj_out_1", temb, 1e-6, False), p + "proj_out_2")
        x = x + mlp(h, "action_decoder")[:, -x.shape[1] :] / steps
    return x


with torch.inference_mode():
    features = backbone()
    error = (head(features) - io["action"]).abs().max().item()
    print(f"largest difference of an action from ours: {error:.1e}", file=sys.stderr)
    if not error < 1e-3:
        sys.exit("both sides should compute the same")
    cases = {"backbone": backbone, "head": lambda: head(features), "all": lambda: head(backbone())}
    for line in sys.stdin:
        case, steps = line.split()
        times = []
        for _ in range(int(steps)):
            start = time.perf_counter()
            cases[case]()
            times.append(f"{(time.perf_counter() - start) * 1e3:.3f}")
        print(" ".join(times), flush=True)
