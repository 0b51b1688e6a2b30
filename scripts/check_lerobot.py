"""Opens a dataset folder with the real LeRobot package, offline, and fails loudly if anything is not as expected.

    python scripts/check_lerobot.py FOLDER

Works with LeRobot 0.3 (datasets v2.1) and 0.4 or newer (datasets v3.0); the commands are in docs/reproduce.md.
"""

import json
import os
import sys
from pathlib import Path

# Before LeRobot is imported: nothing may be looked up on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import importlib.metadata

import torch

try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
except ImportError:  # before 0.3
    from lerobot.common.datasets.lerobot_dataset import LeRobotDataset


def require(condition, message):
    """An assertion that also holds under `python -O`."""
    if not condition:
        sys.exit(f"FAILED: {message}")


def check_frame(dataset, features, index):
    """Shapes, ranges and the task of one frame; returns it."""
    frame = dataset[index]
    for key, feature in features.items():
        shape = tuple(feature["shape"])
        got = tuple(frame[key].shape)
        if feature["dtype"] in ("image", "video"):
            require(got == (shape[2], shape[0], shape[1]), f"frame {index}: {key} is {got}, expected CHW of {shape}")
            require(0 <= frame[key].min() and frame[key].max() <= 1, f"frame {index}: {key} is not in 0..1")
            require(frame[key].max() > frame[key].min(), f"frame {index}: {key} is blank")
        else:
            require(got in (shape, ()) if shape == (1,) else got == shape, f"frame {index}: {key} is {got}, not {shape}")
            require(torch.isfinite(frame[key].float()).all(), f"frame {index}: {key} is not finite")
    require(isinstance(frame["task"], str) and frame["task"], f"frame {index}: task is {frame['task']!r}, not a text")
    return frame


def main(folder):
    root = Path(folder).resolve()
    info = json.loads((root / "meta/info.json").read_text())
    features = info["features"]
    chunk = 4
    key = "action" if "action" in features else next(iter(features))
    steps = [step / info["fps"] for step in range(chunk)]
    dataset = LeRobotDataset("local/check", root=root, delta_timestamps=None)
    print(f"lerobot {importlib.metadata.version('lerobot')}, codebase_version {info['codebase_version']}")
    require(len(dataset) == info["total_frames"], f"{len(dataset)} frames, info.json says {info['total_frames']}")
    require(dataset.num_episodes == info["total_episodes"], f"{dataset.num_episodes} episodes, not as info.json says")

    tasks, expected_frame, episode = set(), 0, 0
    for index in range(len(dataset)):
        frame = check_frame(dataset, features, index)
        if int(frame["episode_index"]) != episode:
            episode, expected_frame = episode + 1, 0
        require(int(frame["episode_index"]) == episode, f"frame {index} belongs to {frame['episode_index']}")
        require(int(frame["frame_index"]) == expected_frame, f"frame {index} is numbered {frame['frame_index']}")
        seconds = float(frame["timestamp"])
        require(abs(seconds - expected_frame / info["fps"]) < 1e-4, f"frame {index} is at {seconds} s")
        tasks.add(frame["task"])
        expected_frame += 1
    require(len(tasks) == info["total_tasks"], f"{len(tasks)} tasks, info.json says {info['total_tasks']}")

    for name, feature in features.items():
        is_camera = feature["dtype"] in ("image", "video")
        if not is_camera and name not in ("action", "observation.state"):
            continue
        for statistic in ("min", "max", "mean", "std"):
            got = tuple(torch.as_tensor(dataset.meta.stats[name][statistic]).shape)
            expected = (3, 1, 1) if is_camera else tuple(feature["shape"])
            require(got == expected, f"statistics: {statistic} of {name} is {got}, expected {expected}")
        print(f"  {name}: {feature['dtype']} {tuple(dataset[0][name].shape)}")

    chunked = LeRobotDataset("local/check", root=root, delta_timestamps={key: steps})
    got = tuple(chunked[0][key].shape)
    require(got[0] == chunk, f"a chunk of {chunk} steps of {key} is {got}")
    print(f"  chunk of {chunk} steps of {key}: {got}")
    batch = next(iter(torch.utils.data.DataLoader(chunked, batch_size=8)))
    require(len(batch["task"]) == min(8, len(chunked)), "the batch is short")
    subset = LeRobotDataset("local/check", root=root, episodes=[info["total_episodes"] - 1])
    require(int(subset[0]["episode_index"]) == info["total_episodes"] - 1, "choosing one episode gives another")
    print(f"passed: {len(dataset)} frames, {dataset.num_episodes} episodes, tasks {sorted(tasks)}")


if __name__ == "__main__":
    require(len(sys.argv) == 2, "usage: python scripts/check_lerobot.py FOLDER")
    main(sys.argv[1])
