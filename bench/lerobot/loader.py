"""LeRobot's side of bench/video.py: answers the same requests as the example `video_loader`, with LeRobot's own loader."""

import os
import resource
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(folder: str, workers: int) -> None:
    # Bytes, not floats: what we give too, and the faster of the two for LeRobot.
    dataset = LeRobotDataset("local/bench", root=folder, return_uint8=True)
    per_episode = len(dataset) // dataset.num_episodes
    for line in sys.stdin:
        kind, *numbers = line.split()
        numbers = [int(number) for number in numbers]
        if kind == "sequential":
            order = [index % len(dataset) for index in range(numbers[0] * per_episode)]
            size = 64
        else:
            draws = torch.Generator().manual_seed(numbers[2])
            order = torch.randint(len(dataset), (numbers[0] * numbers[1],), generator=draws).tolist()
            size = numbers[1]
        loader = torch.utils.data.DataLoader(dataset, batch_size=size, sampler=order, num_workers=workers)
        start, count = time.perf_counter(), 0
        for batch in loader:
            count += len(batch["index"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.perf_counter() - start, count, f"{peak:.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
