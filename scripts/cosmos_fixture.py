#!/usr/bin/env python3
"""Writes parity fixtures of Cosmos-Predict2's networks with random weights and any sizes.

    python scripts/cosmos_fixture.py dit OUT [options]        diffusers' CosmosTransformer3DModel, and the authors' sampler
    python scripts/cosmos_fixture.py vae OUT [options]        the authors' VAE_ (pip install --no-deps cosmos-predict2==1.0.9)
    python scripts/cosmos_fixture.py train OUT [options]      loss and gradients of a training step, in f64 by PyTorch's autograd
    python scripts/cosmos_fixture.py tiles OUT [options]      diffusers' AutoencoderKLWan, in tiles
    python scripts/cosmos_fixture.py layout IN OUT            a fixture's weights under the names of diffusers

Needs torch 2.7.1, diffusers 0.41.0, safetensors 0.8.0 and einops 0.8; docs/formats.md says what is in a fixture.
`world2act doctor --parity OUT` then compares.
"""

import argparse
import json
import math
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

# Diffusers' names of the DiT, in the order in which they are replaced.
DIT_NAMES = [
    ("patch_embed.proj", "x_embedder.proj.1"), ("time_embed.t_embedder", "t_embedder.1"),
    ("time_embed.norm", "t_embedding_norm"), ("transformer_blocks", "blocks"),
    ("norm_out.linear_", "final_layer.adaln_modulation."), ("norm1.linear_", "adaln_modulation_self_attn."),
    ("norm2.linear_", "adaln_modulation_cross_attn."), ("norm3.linear_", "adaln_modulation_mlp."),
    ("attn1", "self_attn"), ("attn2", "cross_attn"), ("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"),
    ("to_out.0", "output_proj"), ("norm_q", "q_norm"), ("norm_k", "k_norm"), ("ff.net.0.proj", "mlp.layer1"),
    ("ff.net.2", "mlp.layer2"), ("proj_out", "final_layer.linear"),
]


def official(name):
    for theirs, ours in DIT_NAMES:
        name = name.replace(theirs, ours)
    return name


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        is_norm = "norm" in name and parameter.dim() == 1 or name.endswith("gamma")
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.1 if is_norm or parameter.dim() == 1 else 1.0 / math.sqrt(fan_in)
        parameter.data = (1.0 if is_norm else 0.0) + scale * noise
    return generator


def save(out, config, tensors):
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for name, content in tensors.items():
        save_file({key: value.detach().contiguous().clone() for key, value in content.items()}, str(out / f"{name}.safetensors"))


def transformer(config):
    from diffusers import CosmosTransformer3DModel

    heads = config["num_heads"]
    ratios = [config[f"rope_{axis}_extrapolation_ratio"] for axis in "thw"]
    return CosmosTransformer3DModel(
        in_channels=config["in_channels"] + 1, out_channels=config["out_channels"], num_attention_heads=heads,
        attention_head_dim=config["model_channels"] // heads, num_layers=config["num_blocks"],
        mlp_ratio=config["mlp_ratio"], text_embed_dim=config["crossattn_emb_channels"],
        adaln_lora_dim=config["adaln_lora_dim"], max_size=(128, 240, 240),
        patch_size=(config["patch_temporal"], config["patch_spatial"], config["patch_spatial"]),
        rope_scale=tuple(ratios), concat_padding_mask=config["concat_padding_mask"], extra_pos_embed_type=None)


def dit_config(args, component):
    return {
        "component": component, "seed": args.seed, "in_channels": args.channels, "out_channels": args.channels,
        "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": args.width,
        "num_blocks": args.blocks, "num_heads": args.heads, "mlp_ratio": args.mlp_ratio,
        "crossattn_emb_channels": args.context, "use_crossattn_projection": False, "pos_emb_cls": "rope3d",
        "use_adaln_lora": True, "adaln_lora_dim": args.rank, "rope_t_extrapolation_ratio": args.ratios[0],
        "rope_h_extrapolation_ratio": args.ratios[1], "rope_w_extrapolation_ratio": args.ratios[2],
        "extra_per_block_abs_pos_emb": False, "rope_enable_fps_modulation": False,
    }


def train(args):
    """The loss of the authors' Video2World training, and its gradients: of all weights, and of adapters of low rank."""
    channels, frames, height, width = args.channels, args.frames, *args.hw
    config = dit_config(args, "cosmos_train") | {
        "frames_known": args.known, "sigma": args.sigma, "sigma_conditional": 0.0001, "loss_scale": 10.0,
        "lora": {"rank": args.lora_rank, "alpha": args.lora_alpha},
    }
    model = transformer(config).eval()
    generator = randomise(model, args.seed)
    weights = {official(name): value.clone() for name, value in model.state_dict().items()}
    model = model.double()
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    io = {"clean": normal(1, channels, frames, height, width), "noise": normal(1, channels, frames, height, width),
          "crossattn_emb": normal(1, args.words, args.context)}
    clean, noise, words = (value.double() for value in io.values())
    sigma = torch.full((1, 1, frames, 1, 1), args.sigma, dtype=torch.float64)
    mask = torch.zeros_like(clean[:, :1])
    mask[:, :, :args.known] = 1.0

    def losses():
        time, time_known = sigma / (sigma + 1), 1e-4 / (1e-4 + 1)
        noisy = clean + noise * sigma
        given = clean * mask + noisy * (1 - time) * (1 - mask)
        times = torch.where(torch.arange(frames)[:, None, None] < args.known, torch.tensor(time_known).double(), time)
        out = model(given, times, words, condition_mask=mask, padding_mask=torch.zeros(1, 1, height, width).double(),
                    return_dict=False)[0]
        predicted = clean * mask + ((1 - time) * noisy - time * out) * (1 - mask)
        error = (clean - predicted) ** 2
        # Of RectifiedFlowScaling.sigma_loss_weights, and of get_per_sigma_loss_weights.
        weights = {"flow": (1 + sigma) ** 2 / sigma**2, "release": (sigma**2 + 1) / sigma**2}
        return {name: (error * weight).mean() * config["loss_scale"] for name, weight in weights.items()}

    found = losses()
    found["flow"].backward()
    io |= {f"full.loss.{name}": value.float()[None] for name, value in found.items()}
    io |= {f"full.grad.{official(name)}": value.grad.float() for name, value in model.named_parameters()}
    ends = ("q_proj", "k_proj", "v_proj", "output_proj", "mlp.layer1", "mlp.layer2")
    adapters = {}
    for name, module in model.named_modules():
        if official(name).endswith(ends) and isinstance(module, torch.nn.Linear):
            a, b = (normal(*shape) / 4 for shape in ((args.lora_rank, module.in_features), (module.out_features, args.lora_rank)))
            for part, value in (("lora_A", a), ("lora_B", b)):
                weights[f"{official(name)}.{part}.weight"] = value
            pair = [value.double().requires_grad_() for value in (a, b)]
            adapters[official(name)] = pair
            scale = args.lora_alpha / args.lora_rank
            module.register_forward_hook(
                lambda _, given, out, pair=pair, scale=scale: out + given[0] @ pair[0].T @ pair[1].T * scale)
    found = losses()
    found["flow"].backward()
    io |= {f"lora.loss.{name}": value.float()[None] for name, value in found.items()}
    for name, pair in adapters.items():
        io |= {f"lora.grad.{name}.{part}.weight": value.grad.float() for part, value in zip(("lora_A", "lora_B"), pair)}
    save(args.out, config, {"io": io, "weights": weights})


def dit(args):
    channels, frames, height, width = args.channels, args.frames, *args.hw
    config = dit_config(args, "cosmos_dit") | {
        "sampler": {
            "num_steps": args.steps, "sigma_max": 80.0, "sigma_min": 0.002, "rho": 7.0, "guidance": args.guidance,
            "num_conditional_latent_frames": args.known, "sigma_conditional": 0.0001, "noise_seed": args.seed,
        },
    }
    model = transformer(config).eval()
    generator = randomise(model, args.seed)
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    io = {
        "fwd.x": normal(2, channels, frames, height, width), "fwd.timesteps": torch.rand((2, frames), generator=generator),
        "fwd.crossattn_emb": normal(2, args.words, args.context),
        "fwd.condition_mask": (torch.rand((2, 1, frames, height, width), generator=generator) > 0.5).float(),
        "fwd.padding_mask": (torch.rand((1, 1, 8 * height, 8 * width), generator=generator) > 0.3).float().repeat(2, 1, 1, 1),
    }

    def network(x, times, words, known, padding):
        # Diffusers takes one padding mask for the whole batch.
        return model(x, times[:, None, :, None, None], words, condition_mask=known, padding_mask=padding[:1],
                     return_dict=False)[0]

    with torch.no_grad():
        io["fwd.out"] = network(io["fwd.x"], io["fwd.timesteps"], io["fwd.crossattn_emb"], io["fwd.condition_mask"],
                                io["fwd.padding_mask"])
        io |= sampler(network, config["sampler"], [1, channels, frames, height, width], args, normal)
    save(args.out, config, {"io": io, "weights": {official(name): value for name, value in model.state_dict().items()}})


def sampler(network, config, shape, args, normal):
    """The steps of the authors' Video2World pipeline, in f64 where theirs are."""
    steps, guidance, known = config["num_steps"], config["guidance"], config["num_conditional_latent_frames"]
    noise = np.random.RandomState(config["noise_seed"]).standard_normal(shape).astype(np.float32)
    truth, words = normal(*shape), [normal(1, args.words, args.context) for _ in range(2)]
    mask = torch.zeros([1, 1, *shape[2:]])
    mask[:, :, :known] = 1.0
    low, high = config["sigma_min"] ** (1 / 7.0), config["sigma_max"] ** (1 / 7.0)
    sigmas = (high + torch.arange(steps + 1, dtype=torch.float64) / steps * (low - high)) ** 7.0
    io = {"sampler.noise": torch.from_numpy(noise), "sampler.gt_latents": truth, "sampler.crossattn_emb": words[0],
          "sampler.crossattn_emb_negative": words[1], "sampler.sigmas": sigmas.float()}
    x, previous = io["sampler.noise"] * config["sigma_max"], None
    for step in range(steps + 1):
        sigma = sigmas[step].float()
        time, time_known = sigma / (sigma + 1), torch.tensor(1e-4) / (torch.tensor(1e-4) + 1)
        times = torch.where(torch.arange(shape[2]) < known, time_known, time)[None]
        clean = []
        for prompt in words:
            given = truth * mask + x * (1 - time) * (1 - mask)
            out = network(given, times, prompt, mask, torch.zeros(1, 1, *shape[3:]))
            clean.append(truth * mask + ((1 - time) * x - time * out) * (1 - mask))
        x0 = clean[0] + guidance * (clean[0] - clean[1])
        for name, value in (("x", x), ("x0_cond", clean[0]), ("x0_uncond", clean[1]), ("x0", x0)):
            io[f"sampler.step{step}.{name}"] = value
        if step == steps:
            io["sampler.final"] = x0
            return io
        here, there = sigmas[step], sigmas[step + 1]
        if previous is None:
            x = ((here - there) / here * x0.double() + there / here * x.double()).float()
        else:
            s, t, m = -torch.log(here), -torch.log(there), -torch.log(sigmas[step - 1])
            dt = t - s
            c2 = (m - s) / dt
            phi1 = torch.expm1(-dt) / -dt
            phi2 = (phi1 - 1) / -dt
            x = (torch.exp(-dt) * x.double() + dt * ((phi1 - phi2 / c2) * x0.double() + phi2 / c2 * previous)).float()
        previous = x0.double()


def vae_class():
    """`VAE_` alone: what surrounds it in its file needs a GPU stack."""
    for name in ("interface", "log", "distributed", "easy_io"):
        stub = types.ModuleType(name)
        stub.VideoTokenizerInterface = object
        stub.broadcast = stub.get_rank = stub.sync_model_states = stub.log = stub.easy_io = None
        path = {"interface": "cosmos_predict2.tokenizers.interface"}.get(name, f"imaginaire.utils.{name}")
        for index in range(1, path.count(".") + 1):
            sys.modules.setdefault(".".join(path.split(".")[:index]), types.ModuleType("stub"))
        sys.modules[path] = stub
        setattr(sys.modules[path.rpartition(".")[0]], name, stub)
    from importlib.util import module_from_spec, spec_from_file_location

    found = [Path(folder) / "cosmos_predict2/tokenizers/tokenizer.py" for folder in sys.path]
    spec = spec_from_file_location("wan", next(path for path in found if path.exists()))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VAE_


def vae(args):
    config = {
        "component": "wan_vae", "seed": args.seed, "dim": args.width, "z_dim": args.channels, "dim_mult": args.multiples,
        "num_res_blocks": args.blocks, "attn_scales": [], "dropout": 0.0, "temporal_window": args.window,
        "temperal_downsample": [flag == "1" for flag in args.time], "frames": args.frames, "video_hw": args.hw,
    }
    sizes = ("dim", "z_dim", "dim_mult", "num_res_blocks", "attn_scales", "dropout", "temporal_window", "temperal_downsample")
    model = vae_class()(**{key: config[key] for key in sizes}).eval()
    generator = randomise(model, args.seed)
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    mean, std = normal(args.channels), torch.rand(args.channels, generator=generator) + 0.5
    scale, io, layers = [mean, 1.0 / std], {"latents_mean": mean, "latents_std": std}, {}
    hooks = []
    for name, module in model.named_modules():
        if name in ("encoder.conv1", "decoder.conv1") or name.startswith(("encoder.", "decoder.")) and name.count(".") == 2 \
                and "head" not in name:
            hooks.append(module.register_forward_hook(
                lambda _, __, out, name=name: layers.setdefault(name, []).append(out.clone())))
    with torch.no_grad():
        for index, frames in enumerate(args.frames):
            video = torch.rand((1, 3, frames, *args.hw), generator=generator) * 2 - 1
            chunks = []
            hook = model.encoder.register_forward_hook(lambda _, __, out: chunks.append(out.clone()))  # noqa: B023
            latent = model.encode(video, scale)
            hook.remove()
            recon = model.decode(latent, scale)
            if index == 0:
                for hook in hooks:
                    hook.remove()
                found = model.encode(video[:, :, :1], scale)
                io["f1.latent"], io["f1.recon"] = found, model.decode(found, scale)
            random = normal(*latent.shape)
            io |= {f"f{frames}.video": video, f"f{frames}.latent": latent, f"f{frames}.recon": recon,
                   f"f{frames}.mu": model.encode(video, [0.0, 1.0]), f"f{frames}.random_latent": random,
                   f"f{frames}.decode_random": model.decode(random, scale)}
            io |= {f"f{frames}.encoder_chunk{number}": chunk for number, chunk in enumerate(chunks)}
    layers = {f"{name}.call{call}": out for name, outs in layers.items() for call, out in enumerate(outs[:2])}
    save(args.out, config, {"io": io, "layers": layers, "weights": model.state_dict()})


def tiles(args):
    from diffusers import AutoencoderKLWan

    rows, columns = args.hw
    config = {
        "component": "wan_vae_tiled", "seed": args.seed, "dim": args.width, "z_dim": args.channels,
        "dim_mult": args.multiples, "num_res_blocks": args.blocks, "attn_scales": [], "dropout": 0.0, "temporal_window": 4,
        "temperal_downsample": [flag == "1" for flag in args.time], "frames": [],
        "tiles": {"size": args.size, "stride": args.stride},
    }
    model = AutoencoderKLWan(base_dim=args.width, z_dim=args.channels, dim_mult=args.multiples, num_res_blocks=args.blocks,
                             temperal_downsample=config["temperal_downsample"]).eval()
    generator = randomise(model, args.seed)
    model.enable_tiling(*args.size, *args.stride)
    scale, count = 2 ** (len(args.multiples) - 1), 1 + (args.frames[0] - 1) // 2 ** args.time.count("1")
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    mean, std = normal(args.channels), torch.rand(args.channels, generator=generator) + 0.5
    video = torch.rand((1, 3, args.frames[0], rows, columns), generator=generator) * 2 - 1
    latent = normal(1, args.channels, count, rows // scale, columns // scale)
    each = lambda value: value[None, :, None, None, None]  # noqa: E731
    with torch.no_grad():
        found = (model.encode(video).latent_dist.mode() - each(mean)) / each(std)
        io = {"latents_mean": mean, "latents_std": std, "tiled.video": video, "tiled.latent": found,
              "tiled.random_latent": latent, "tiled.decode_random": model.decode(latent * each(std) + each(mean)).sample}
    save(args.out, config, {"io": io, "weights": model.state_dict()})


def layout(args):
    from diffusers import AutoencoderKLWan
    from diffusers.loaders import single_file_utils as convert

    config, weights = json.loads((args.source / "config.json").read_text()), load_file(args.source / "weights.safetensors")
    if config["component"].startswith("cosmos_dit"):
        model = transformer(config)
        model.load_state_dict(convert.convert_cosmos_transformer_checkpoint_to_diffusers({f"net.{k}": v for k, v in weights.items()}))
    else:
        model = AutoencoderKLWan(
            base_dim=config["dim"], z_dim=config["z_dim"], dim_mult=config["dim_mult"],
            num_res_blocks=config["num_res_blocks"], temperal_downsample=config["temperal_downsample"])
        model.load_state_dict(convert.convert_wan_vae_to_diffusers(dict(weights)))
    shutil.copytree(args.source, args.out)
    args.out.chmod(0o755)
    (args.out / "weights.safetensors").unlink()
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, str(args.out / "weights.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one, four = commands.add_parser("dit"), commands.add_parser("train")
    one.set_defaults(run=dit)
    four.set_defaults(run=train)
    for name, kind, default in [("lora-rank", int, 3), ("lora-alpha", float, 6.0), ("sigma", float, 1.7)]:
        four.add_argument(f"--{name}", type=kind, default=default)
    for name, kind, default in [("channels", int, 16), ("frames", int, 4), ("width", int, 80), ("heads", int, 2),
                                ("blocks", int, 3), ("mlp-ratio", float, 4.0), ("context", int, 20), ("rank", int, 8),
                                ("words", int, 5), ("steps", int, 4), ("guidance", float, 3.0), ("known", int, 2)]:
        for command in (one, four):
            command.add_argument(f"--{name}", type=kind, default=default)
    for command in (one, four):
        command.add_argument("--ratios", type=float, nargs=3, default=[5 / 6, 2.0, 2.0], help="of time, rows and columns")
    two, five = commands.add_parser("vae"), commands.add_parser("tiles")
    two.set_defaults(run=vae)
    two.add_argument("--window", type=int, default=16)
    five.set_defaults(run=tiles)
    for name in ("size", "stride"):
        five.add_argument(f"--{name}", type=int, nargs=2, default=[32, 40] if name == "size" else [24, 24])
    for command in (two, five):
        for name, default in [("channels", 4), ("width", 8), ("blocks", 2)]:
            command.add_argument(f"--{name}", type=int, default=default)
        command.add_argument("--multiples", type=int, nargs="+", default=[1, 2, 4, 4])
        command.add_argument("--time", default="011", help="a digit for each stage but the last: whether it halves frames")
        command.add_argument("--frames", type=int, nargs="+", default=[17])
    for command in (one, two, four, five):
        command.add_argument("out", type=Path)
        command.add_argument("--hw", type=int, nargs=2, default=[16, 40] if command in (two, five) else [6, 10])
        command.add_argument("--seed", type=int, default=5)
    three = commands.add_parser("layout")
    three.set_defaults(run=layout)
    three.add_argument("source", type=Path)
    three.add_argument("out", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
