"""Writes the small datasets with video in crates/w2a-data/tests/fixtures, with LeRobot's own writer.

    python scripts/lerobot_fixture.py FOLDER

LeRobot 0.6.1 made `lerobot_v30`, LeRobot 0.3.3 `lerobot_v21`. Every frame is of one grey level that tells episode, camera
and frame, as the test expects it.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

EPISODES = 3


def level(episode: int, camera: int, frame: int) -> int:
    return 16 + (episode * 60 + camera * 110 + frame * 9) % 220


def main(folder: str) -> None:
    image = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.top": image,
        "observation.images.wrist": image,
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "gripper"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    dataset = LeRobotDataset.create("local/fixture", fps=10, features=features, root=folder, robot_type="paper")
    for episode in range(EPISODES):
        for frame in range(5 + episode):
            step = {
                "observation.state": np.array([episode, frame, 0.5], dtype=np.float32),
                "action": np.array([frame, -episode], dtype=np.float32),
                "next.reward": np.zeros(1, dtype=np.float32),
            }
            for camera, name in enumerate(["top", "wrist"]):
                step[f"observation.images.{name}"] = np.full((64, 64, 3), level(episode, camera, frame), dtype=np.uint8)
            task = ["öffne die Schublade", "close it"][episode % 2]
            # 0.3 takes the task beside the frame, later versions in it.
            try:
                dataset.add_frame({**step, "task": task})
            except TypeError:
                dataset.add_frame(step, task=task)
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/lerobot_fixture.py FOLDER")
    main(sys.argv[1])
