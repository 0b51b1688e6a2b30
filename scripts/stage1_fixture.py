"""Writes a parity fixture of a stage-1 component with PyTorch, at any size, for `world2act doctor --parity`.

    python scripts/stage1_fixture.py action_vae FOLDER --batch 3 --chunks 9 --latent-frames 5 --latent-hw 7 9
    python scripts/stage1_fixture.py v2 FOLDER --batch 5 --chunks 4 --small
    python scripts/stage1_fixture.py action_vae FOLDER --check      # recompute a fixture that is there, and compare

Needs torch and safetensors (made with 2.11 and 0.7). The networks and losses are written from the description in
docs/formats.md ("Parity fixtures"), not from anybody's code. `--small` rounds the weights to half precision, stores
them so, and leaves the largest tensor out of train*.safetensors: that is how the fixtures under crates/ were made.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

STEPS = 3


class ActionVae(nn.Module):
    """The authors' variational autoencoder over action chunks, and the video bridger on single latent frames."""

    def __init__(self, c):
        super().__init__()
        dim, half = c["latent_dim"], c["chunk_len"] // 2
        self.video_bridger = nn.Sequential(
            nn.Conv3d(c["video_channels"], 64, 3, (1, 2, 2), 1), nn.GroupNorm(8, 64), nn.GELU(),
            nn.Conv3d(64, 128, 3, (1, 2, 2), 1), nn.GroupNorm(16, 128), nn.GELU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(128, dim),
        )
        self.encoder = nn.Sequential(
            nn.Conv1d(c["action_dim"], 64, 3, 1, 1), nn.GELU(), nn.Conv1d(64, 128, 3, 2, 1), nn.GELU(),
            nn.Flatten(), nn.Linear(128 * half, 2 * dim),
        )
        self.decoder_input = nn.Linear(dim, 128 * half)
        self.decoder = nn.Sequential(
            nn.ConvTranspose1d(128, 64, 3, 2, 1, output_padding=1), nn.GELU(),
            nn.ConvTranspose1d(64, c["action_dim"], 3, 1, 1),
        )
        self.half = half

    def encode(self, actions, noise):
        mu, logvar = self.encoder(actions.transpose(1, 2)).chunk(2, dim=-1)
        return mu, logvar, mu + noise * torch.exp(0.5 * logvar)

    def decode(self, z):
        return self.decoder(self.decoder_input(z).view(-1, 128, self.half)).transpose(1, 2)


def vae_losses(model, c, io, step):
    """Every recorded number of one step; `loss.total` is what is descended."""
    out = {}
    actions, negatives, video = io["actions"], io["negative_actions"], io["video_latents"]
    for name, x in [("pos", actions), ("neg", negatives)]:
        flat = x.reshape(-1, c["chunk_len"], c["action_dim"])
        mu, logvar, z = model.encode(flat, io[f"noise.step{step}.{name}"])
        recon = model.decode(z)
        out |= {f"mu_{name}": mu, f"logvar_{name}": logvar, f"z_{name}": z, f"recon_{name}": recon}
        out[f"loss.recon_{name}"] = F.mse_loss(recon, flat)
    batch, _, frames = video.shape[:3]
    x = video.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    for index, layer in enumerate(model.video_bridger):
        x = layer(x)
        if index != 7:
            out[f"act.video_bridger.{index}"] = x
    z_v = F.normalize(x.view(batch, frames, 1, -1), dim=-1)
    paired = lambda mu, n: F.normalize(mu.view(batch, n, -1, mu.shape[-1])[:, :, :frames], dim=-1).transpose(1, 2)
    candidates = torch.cat([paired(out["mu_pos"], 1), paired(out["mu_neg"], c["num_negatives"])], dim=2)
    cosines = (z_v * candidates).sum(-1)
    logits = cosines.flatten(0, 1) / c["contrast_temperature"]
    out["contrast_cosines"] = cosines
    out["loss.contrast"] = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    mu, logvar = out["mu_pos"], out["logvar_pos"]
    out["loss.kl"] = (-0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1)).mean()
    out["loss.recon"] = out["loss.recon_pos"] + out["loss.recon_neg"]
    out["loss.total"] = sum(weight * out[f"loss.{name}"] for name, weight in c["loss_weights"].items())
    return out


class Stage1V2(nn.Module):
    """The paper's adapters."""

    def __init__(self, c):
        super().__init__()
        dim, chunk = c["latent_dim"], c["chunk_len"] * c["action_dim"]
        self.video_bridger = nn.Sequential(
            nn.Conv2d(c["video_channels"], 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.GELU(),
            nn.Conv2d(64, 128, 3, 2, 1), nn.GroupNorm(16, 128), nn.GELU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, dim),
        )
        mlp = lambda a, b, c, d: nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.Linear(b, c), nn.GELU(), nn.Linear(c, d))
        self.action_encoder, self.action_decoder = mlp(chunk, 128, 64, dim), mlp(dim, 64, 128, chunk)


def v2_losses(model, c, io, variant):
    out = {}
    actions, video = io["actions"], io["video_latents"]
    z_v = model.video_bridger(video.transpose(1, 2).flatten(0, 1)).view(*actions.shape[:2], -1)
    z_a = model.action_encoder(actions.flatten(2))
    out |= {"z_video": z_v, "z_action": z_a, "recon": model.action_decoder(z_a).view(actions.shape)}
    if variant == "global":
        similarity = F.normalize(z_v.mean(1), dim=-1) @ F.normalize(z_a.mean(1), dim=-1).T
    else:
        similarity = torch.einsum("itd,jtd->ij", F.normalize(z_v, dim=-1), F.normalize(z_a, dim=-1)) / z_v.shape[1]
    own = torch.arange(len(actions))
    v2a = F.cross_entropy(similarity / c["temperature"], own)
    a2v = F.cross_entropy(similarity.T / c["temperature"], own)
    contrast = v2a if variant == "onedir" else (v2a + a2v) / 2
    recon = F.mse_loss(out["recon"], actions)
    losses = {"similarity": similarity, "loss.v2a": v2a, "loss.a2v": a2v, "loss.contrast": contrast}
    losses |= {"loss.recon": recon, "loss.total": contrast + recon}
    return out | {f"{variant}.{name}": value for name, value in losses.items()}


def train(model, c, losses, total, prefix):
    """Three steps of AdamW; gives everything recorded at step 0, the curves, and the tensors of train.safetensors."""
    o = c["optimizer"]
    adam = torch.optim.AdamW(model.parameters(), o["lr"], tuple(o["betas"]), o["eps"], o["weight_decay"])
    saved, curve, norms = {}, [], []
    for step in range(STEPS):
        adam.zero_grad()
        out = losses(step)
        out[total].backward()
        if step == 0:
            first = {name: value.detach().clone() for name, value in out.items()}
            saved |= {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
        curve.append(out[total].item())
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), o["grad_clip_norm"]).item())
        adam.step()
    saved |= {f"after3.{name}": p.detach().clone() for name, p in model.named_parameters()}
    first |= {f"{prefix}loss_per_step": torch.tensor(curve), f"{prefix}grad_norm_per_step": torch.tensor(norms)}
    return first, saved


def run(c, weights, io):
    """Outputs of io.safetensors, and the tensors of each train file by its name."""
    if c["component"] == "stage1_action_vae":
        model = ActionVae(c)
        model.load_state_dict(weights)
        out, saved = train(model, c, lambda step: vae_losses(model, c, io, step), "loss.total", "train.")
        return out, {"train": saved}
    out, files = {}, {}
    for variant in c["variants"]:
        model = Stage1V2(c)
        model.load_state_dict(weights)
        losses = lambda _: v2_losses(model, c, io, variant)
        found, files[f"train_{variant}"] = train(model, c, losses, f"{variant}.loss.total", f"{variant}.train.")
        out |= found
    return out, files


def config(args):
    vae = args.component == "action_vae"
    c = {
        "component": f"stage1_{args.component}", "seed": args.seed, "action_dim": args.action_dim,
        "latent_dim": args.latent_dim, "chunk_len": args.chunk_len, "video_channels": args.channels,
        "batch": args.batch, "num_chunks": args.chunks, "latent_hw": args.latent_hw,
    }
    if vae:
        c |= {"t_vid": args.latent_frames, "num_negatives": args.negatives, "contrast_temperature": args.temperature,
              "loss_weights": {"recon": 1.0, "contrast": 0.1, "kl": 1e-4}}
    else:
        c |= {"temperature": args.temperature, "variants": {name: "" for name in ("bidirectional", "onedir", "global")}}
    optimizer = {"name": "AdamW", "lr": args.lr, "weight_decay": 0.01, "betas": [0.9, 0.95], "eps": 1e-8,
                 "grad_clip_norm": args.clip}
    return c | {"optimizer": optimizer, "gelu": "erf", "groupnorm_eps": 1e-5, "normalize_eps": 1e-12}


def inputs(c):
    batch, chunks, m, a = c["batch"], c["num_chunks"], c["chunk_len"], c["action_dim"]
    frames = c.get("t_vid", chunks)
    io = {"actions": torch.randn(batch, chunks, m, a),
          "video_latents": torch.randn(batch, c["video_channels"], frames, *c["latent_hw"])}
    if "num_negatives" in c:
        n = c["num_negatives"]
        io["negative_actions"] = torch.randn(batch, n, chunks, m, a)
        for step in range(STEPS):
            io[f"noise.step{step}.pos"] = torch.randn(batch * chunks, c["latent_dim"])
            io[f"noise.step{step}.neg"] = torch.randn(batch * n * chunks, c["latent_dim"])
    return io


def main():
    p = argparse.ArgumentParser()
    p.add_argument("component", choices=["action_vae", "v2"])
    p.add_argument("folder", type=Path)
    p.add_argument("--check", action="store_true")
    p.add_argument("--small", action="store_true")
    for name, default in [("batch", 2), ("chunks", 8), ("latent-frames", 6), ("chunk-len", 4), ("action-dim", 7),
                          ("latent-dim", 32), ("channels", 16), ("negatives", 5), ("seed", 1)]:
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--latent-hw", type=int, nargs=2, default=[10, 12])
    p.add_argument("--temperature", type=float, default=0.07)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--clip", type=float, default=1.0)
    args = p.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    read = lambda name: load_file(args.folder / f"{name}.safetensors")
    if args.check:
        c = json.loads((args.folder / "config.json").read_text())
        weights = {name: value.float() for name, value in read("weights").items()}
        io = read("io")
        out, files = run(c, weights, io)
        pairs = [(name, out[name], io[name]) for name in out if name in io]
        for file, tensors in files.items():
            kept = read(file)
            pairs += [(f"{file}/{name}", value, kept[name]) for name, value in tensors.items() if name in kept]
        for name, got, want in pairs:
            print(f"{name:<50} {(got.reshape(want.shape) - want).abs().max().item():.2e}")
        return
    c = config(args)
    model = ActionVae(c) if "num_negatives" in c else Stage1V2(c)
    store = torch.float16 if args.small else torch.float32
    stored = {name: value.to(store) for name, value in model.state_dict().items()}
    io = inputs(c)
    out, files = run(c, {name: value.float() for name, value in stored.items()}, io)
    io |= {name: value.reshape(1) if value.dim() == 0 else value.contiguous() for name, value in out.items()}
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "config.json").write_text(json.dumps(c, indent=1) + "\n")
    save_file(io, args.folder / "io.safetensors")
    save_file(stored, args.folder / "weights.safetensors")
    if "num_negatives" in c:
        torch.save(stored, args.folder / "ckpt.pt")  # as the authors' training writes its checkpoints
    for file, tensors in files.items():
        if args.small:
            tensors = {name: value for name, value in tensors.items() if not name.endswith("video_bridger.3.weight")}
        save_file(tensors, args.folder / f"{file}.safetensors")


if __name__ == "__main__":
    main()
