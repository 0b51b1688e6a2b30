#!/usr/bin/env python3
"""Compares reading LeRobot datasets with video with LeRobot's own loader, in alternating pairs on the same files.

    cargo build --release --workspace --examples
    target/release/examples/video_loader write AV1_FOLDER av1
    target/release/examples/video_loader write H264_FOLDER h264
    python bench/video.py --lerobot-python venv/bin/python AV1_FOLDER H264_FOLDER

Prints steps per second (a step has one frame of each of two cameras, its state and its action) and the ratio ours /
LeRobot's: the median over pairs with its quartiles. `--memory` reads five times as much as one pass and prints our largest
memory after one pass and after all.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = [("sequential episodes", "sequential {pair_episodes}"), ("shuffled steps", "shuffled {batches} {size} {seed}")]


class Side:
    """A program that answers requests."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, request: str) -> tuple[float, float]:
        """Steps per second, and the largest memory so far in MiB."""
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().split()
        if len(line) != 3:
            sys.exit(f"the program ended at {request!r}: {self.process.args}")
        return float(line[1]) / float(line[0]), float(line[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--lerobot-python", default=sys.executable, help="the Python that has LeRobot 0.4 or newer")
    parser.add_argument("--ours", default=str(ROOT / "target/release/examples/video_loader"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=2, help="episodes of a sequential request")
    parser.add_argument("--batches", type=int, default=4, help="batches of a shuffled request")
    parser.add_argument("--size", type=int, default=64, help="steps of a batch")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of LeRobot's DataLoader")
    parser.add_argument("--memory", action="store_true", help="measure our memory instead")
    args = parser.parse_args()
    for folder in args.folders:
        ours = Side([args.ours, "read", folder])
        if args.memory:
            (_, once), (_, five) = ours.ask("sequential 10"), ours.ask("sequential 40")
            print(f"{folder}: sequential: {once:.1f} MiB after one pass, {five:.1f} MiB after five")
            (_, once), (_, five) = ours.ask("shuffled 31 64 0"), ours.ask("shuffled 124 64 1")
            print(f"{folder}: shuffled:   {once:.1f} MiB after one pass, {five:.1f} MiB after five")
            continue
        theirs = Side([args.lerobot_python, str(ROOT / "bench/lerobot/loader.py"), folder, str(args.workers)])
        for name, request in CASES:
            left, right = [], []
            for pair in range(-1, args.pairs):
                text = request.format(pair_episodes=args.episodes, batches=args.batches, size=args.size, seed=pair + 1)
                a, b = ours.ask(text)[0], theirs.ask(text)[0]
                # The first request opens files and fills caches on both sides.
                if pair >= 0:
                    left.append(a)
                    right.append(b)
            low, middle, high = statistics.quantiles([a / b for a, b in zip(left, right)], n=4)
            print(
                f"{folder}: {name}: ours {statistics.median(left):.0f} steps/s, LeRobot {statistics.median(right):.0f} "
                f"steps/s, ratio {middle:.2f} [{low:.2f}, {high:.2f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
