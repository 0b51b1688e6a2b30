#!/usr/bin/env python3
"""Compares our steps with PyTorch's, in alternating pairs, so that both see the same noise of the machine.

The suite `stage1` is training steps, `cosmos` the networks of Cosmos-Predict2 against diffusers.

    cargo build --release --workspace --examples
    python bench/compare.py --torch-python venv/bin/python [--suite cosmos] [CASE ...]

Prints per case the median and the least time of a step on both sides, and the ratio ours / PyTorch: the median over pairs
with its quartiles, and the ratio of the least times. With --cpu a step's time is that of the processors, as Linux counts it
for each side, which others on the machine disturb less; both sides should then have one thread. Where PyTorch has several
forms (memory layout, or a planar convolution instead of the authors' three-dimensional one), every form is a row.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

# Of each suite: our case, PyTorch's forms of it, steps in a pair, goal.
STAGE1 = [
    ("video_60x104", ["video_60x104", "video_60x104+cl"], 1, 0.6),
    ("video_8x8", ["video_8x8", "video_8x8+cl"], 60, 0.6),
    ("action", ["action"], 400, 0.5),
    ("residual_64", ["residual_64", "residual_64+cl"], 60, 0.5),
    ("action_vae", ["action_vae", "action_vae+planar"], 3, 0.5),
    ("infer_64", ["infer_64"], 40, None),
    ("infer_256", ["infer_256"], 20, None),
]
COSMOS = [
    ("dit_1560", ["dit_1560"], 1, 0.9),
    ("vae_encode", ["vae_encode"], 1, 0.9),
    ("vae_decode", ["vae_decode"], 1, 0.9),
]
# The cases, our example, PyTorch's script.
SUITES = {"stage1": (STAGE1, "stage1_steps", "stage1.py"), "cosmos": (COSMOS, "cosmos_steps", "cosmos.py")}
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Side:
    """A program that runs steps on request."""

    def __init__(self, command: list[str], cpu: bool = False):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.cpu = cpu

    def spent(self) -> float:
        """Milliseconds that the processors have worked for it."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) * 1e3 / os.sysconf("SC_CLK_TCK")

    def run(self, case: str, steps: int) -> list[float]:
        # OpenMP's threads spin for 200 ms after their last work, and would take a core from the other side.
        time.sleep(0.3)
        before = self.spent() if self.cpu else 0.0
        self.process.stdin.write(f"{case} {steps + 1}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the program for {case!r} ended: {self.process.args}")
        if self.cpu:
            return [(self.spent() - before) / (steps + 1)]
        # The first step wakes threads and caches.
        return [float(part) for part in line.split()][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="all if none is given")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that has PyTorch")
    parser.add_argument("--suite", choices=SUITES, default="stage1")
    parser.add_argument("--ours", help="our program, if it is not in target")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--cpu", action="store_true", help="time of the processors (Linux)")
    args = parser.parse_args()
    cases, example, script = SUITES[args.suite]
    known = {name for name, *_ in cases}
    if unknown := set(args.cases) - known:
        parser.error(f"no case {sorted(unknown)}, expected some of {sorted(known)}")
    ours = Side([args.ours or str(ROOT / "target/release/examples" / example)], args.cpu)
    torch = Side([args.torch_python, str(ROOT / "bench/torch" / script)], args.cpu)
    print(f"{'case':<14} {'PyTorch form':<20} {'ours ms':>18} {'PyTorch ms':>18} {'ratio [quartiles]':>24} {'of least':>9} goal")
    for name, forms, steps, goal in cases:
        if args.cases and name not in args.cases:
            continue
        for form in forms:
            ours.run(name, 1), torch.run(form, 1)
            left, right, ratios = [], [], []
            for _ in range(args.pairs):
                a, b = ours.run(name, steps), torch.run(form, steps)
                left += a
                right += b
                ratios.append(statistics.median(a) / statistics.median(b))
            low, middle, high = statistics.quantiles(ratios, n=4)
            summary = lambda times: f"{statistics.median(times):.3f} ({min(times):.3f})"
            print(
                f"{name:<14} {form:<20} {summary(left):>18} {summary(right):>18} "
                f"{f'{middle:.2f} [{low:.2f}, {high:.2f}]':>24} {min(left) / min(right):>9.2f} {goal or ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
