#!/usr/bin/env python3
"""Compares GR00T's networks at a middle size with the same structure in PyTorch, in alternating pairs on one CPU.

    cargo build --release --workspace --examples
    python bench/groot.py --torch-python venv/bin/python CHECKPOINT

CHECKPOINT is a folder that is written (360 MB of random weights) if it does not exist. Prints the median and the least time of
a step on both sides, and the ratio ours / PyTorch: the median over pairs with its quartiles.
"""

import argparse
import pathlib
import statistics
import sys

from compare import ROOT, Side

CASES = [("backbone", None), ("head", None), ("all", 0.8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that has PyTorch and safetensors")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="steps in a pair")
    parser.add_argument("--cpu", action="store_true", help="time of the processors (Linux), as in compare.py")
    parser.add_argument("--ours", help="our program, if it is not in target")
    args = parser.parse_args()
    ours = Side([args.ours or str(ROOT / "target/release/examples/groot_steps"), str(args.checkpoint)], args.cpu)
    ours.run("head", 1)
    torch = Side([args.torch_python, str(ROOT / "bench/torch/groot.py"), str(args.checkpoint)], args.cpu)
    print(f"{'case':<10} {'ours ms':>20} {'PyTorch ms':>20} {'ratio [quartiles]':>22} goal")
    for case, goal in CASES:
        ours.run(case, 1), torch.run(case, 1)
        left, right, ratios = [], [], []
        for _ in range(args.pairs):
            a, b = ours.run(case, args.steps), torch.run(case, args.steps)
            left += a
            right += b
            ratios.append(statistics.median(a) / statistics.median(b))
        low, middle, high = statistics.quantiles(ratios, n=4)
        summary = lambda times: f"{statistics.median(times):.1f} ({min(times):.1f})"
        ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{case:<10} {summary(left):>20} {summary(right):>20} {ratio:>22} {goal or ''}", flush=True)


if __name__ == "__main__":
    main()
