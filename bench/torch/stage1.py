"""The PyTorch side of `stage1`: whole training steps (forward, backward, AdamW) in eager mode, float32, on the CPU.

Reads lines `CASE STEPS` from standard input, runs that many steps and answers with one line of milliseconds per step.
`bench/compare.py` drives it beside our own program.
"""

import sys
import time

import torch
from torch import nn
import torch.nn.functional as F

FRAMES = 384
DIM = 32


def video(channels: int) -> nn.Sequential:
    """The video adapter `B_v` with average pooling."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.GELU(),
        nn.Conv2d(64, 128, 3, 2, 1), nn.GroupNorm(16, 128), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, DIM),
    )


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layers += [nn.GELU()] if index else []
        layers.append(nn.Linear(a, b))
    return nn.Sequential(*layers)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, through PyTorch's fused attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Residual(nn.Module):
    """The residual policy of stage 2 for square images."""

    def __init__(self, size: int, proprio: int, depth: int = 2, heads: int = 4):
        super().__init__()
        side = size
        for kernel, stride in ((8, 4), (4, 2), (3, 2)):
            side = (side - kernel) // stride + 1
        self.state = nn.Sequential(nn.Linear(proprio, 128), nn.ReLU(), nn.Linear(128, DIM), nn.LayerNorm(DIM))
        self.image = nn.Sequential(
            nn.Conv2d(3, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * side * side, DIM), nn.LayerNorm(DIM),
        )
        self.action = nn.Linear(DIM, DIM)
        self.kind = nn.Parameter(torch.randn(1, 3, DIM) * 0.02)
        self.blocks = nn.ModuleList(Block(DIM, heads) for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, image: torch.Tensor, proprio: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([self.state(proprio), self.image(image), self.action(z)], 1) + self.kind
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 2])


class ActionVae(nn.Module):
    """The authors' older stage 1: a VAE over chunks, the bridger a Conv3d applied to single frames."""

    def __init__(self, actions: int = 7, steps: int = 4, planar: bool = False):
        super().__init__()
        self.planar, self.steps = planar, steps
        conv = (lambda a, b: nn.Conv2d(a, b, 3, 2, 1)) if planar else (lambda a, b: nn.Conv3d(a, b, 3, (1, 2, 2), 1))
        pool = nn.AdaptiveAvgPool2d(1) if planar else nn.AdaptiveAvgPool3d(1)
        self.video_bridger = nn.Sequential(
            conv(16, 64), nn.GroupNorm(8, 64), nn.GELU(), conv(64, 128), nn.GroupNorm(16, 128), nn.GELU(),
            pool, nn.Flatten(), nn.Linear(128, DIM),
        )
        self.encoder = nn.Sequential(
            nn.Conv1d(actions, 64, 3, padding=1), nn.GELU(), nn.Conv1d(64, 128, 3, 2, 1), nn.GELU(), nn.Flatten(),
            nn.Linear(128 * steps // 2, 2 * DIM),
        )
        self.decoder_input = nn.Linear(DIM, 128 * steps // 2)
        self.decoder = nn.Sequential(
            nn.ConvTranspose1d(128, 64, 3, 2, 1, 1), nn.GELU(), nn.ConvTranspose1d(64, actions, 3, 1, 1)
        )

    def chunks(self, actions: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[n, M, A]` → means, log-variances, reconstructions."""
        mean, log_var = self.encoder(actions.transpose(1, 2)).chunk(2, 1)
        z = mean + noise * (0.5 * log_var).exp()
        decoded = self.decoder(self.decoder_input(z).reshape(-1, 128, self.steps // 2))
        return mean, log_var, decoded.transpose(1, 2)


def vae_loss(net: ActionVae, latents: torch.Tensor, actions: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """`latents` [T, 16, H, W], `actions` [chunks, M, A], `negatives` [N, chunks, M, A]."""
    frames, chunks, count = len(latents), len(actions), len(negatives)
    z_v = net.video_bridger(latents if net.planar else latents.unsqueeze(2))
    mean, log_var, decoded = net.chunks(actions, torch.randn(chunks, DIM))
    flat = negatives.flatten(0, 1)
    mean_n, _, decoded_n = net.chunks(flat, torch.randn(len(flat), DIM))
    reconstruction = F.mse_loss(decoded, actions) + F.mse_loss(decoded_n, flat)
    kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
    keys = torch.cat([mean[None, :frames], mean_n.reshape(count, chunks, DIM)[:, :frames]])
    logits = F.cosine_similarity(z_v[None], keys, dim=-1).T / 0.07
    contrast = F.cross_entropy(logits, torch.zeros(frames, dtype=torch.long))
    return reconstruction + 0.1 * contrast + 1e-4 * kl


def case(name: str):
    """The step of a case, as a function without arguments."""
    torch.manual_seed(0)
    parts = name.split("+")
    channels_last = "cl" in parts
    clip = False
    if parts[0] in ("video_60x104", "video_8x8"):
        size = tuple(map(int, parts[0].split("_")[1].split("x")))
        net, x = video(16), torch.randn(FRAMES, 16, *size)
        if channels_last:
            net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        target = torch.randn(FRAMES, DIM)
        loss = lambda: F.mse_loss(net(x), target)
    elif parts[0] == "action":
        net = nn.ModuleList([mlp(28, 128, 64, DIM), mlp(DIM, 64, 128, 28)])
        x = torch.randn(FRAMES, 28)
        loss = lambda: F.mse_loss(net[1](net[0](x)), x)
    elif parts[0] == "residual_64":
        net, image, proprio, z = Residual(64, 53), torch.randn(64, 3, 64, 64), torch.randn(64, 53), torch.randn(64, DIM)
        if channels_last:
            net, image = net.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
        target = torch.randn(64, DIM)
        loss = lambda: F.mse_loss(net(image, proprio, z), target)
    elif parts[0] == "action_vae":
        net, clip = ActionVae(planar="planar" in parts), True
        latents, actions, negatives = torch.randn(24, 16, 60, 104), torch.randn(32, 4, 7), torch.randn(16, 32, 4, 7)
        if channels_last:
            net, latents = net.to(memory_format=torch.channels_last), latents.to(memory_format=torch.channels_last)
        loss = lambda: vae_loss(net, latents, actions, negatives)
    elif parts[0] in ("infer_64", "infer_256"):
        size = int(parts[0].split("_")[1])
        encoder, decoder, net = mlp(28, 128, 64, DIM), mlp(DIM, 64, 128, 28), Residual(size, 53)
        image, proprio, chunk = torch.randn(1, 3, size, size), torch.randn(1, 53), torch.randn(1, 28)

        @torch.inference_mode()
        def infer():
            z = encoder(chunk)
            return decoder(z + net(image, proprio, z))

        return infer
    else:
        raise SystemExit(f"unknown case {name!r}")
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-2)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()

    return step


def main() -> None:
    steps = {}
    for line in sys.stdin:
        name, count = line.split()
        if name not in steps:
            steps[name] = case(name)
            for _ in range(3):
                steps[name]()
        times = []
        for _ in range(int(count)):
            start = time.perf_counter()
            steps[name]()
            times.append((time.perf_counter() - start) * 1e3)
        print(" ".join(f"{ms:.4f}" for ms in times), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
