"""Takes from a dataset what Isaac-GR00T's loader takes (N1.6, gr00t/data/dataset/lerobot_episode_loader.py), and fails
loudly where that loader would fail or fall back.

    python scripts/check_gr00t.py FOLDER

Needs pandas, pyarrow and av, which LeRobot's environment has; the commands are in docs/reproduce.md.
"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd

SIX = {"mean", "std", "min", "max", "q01", "q99"}
FEATURES = {"state": "observation.state", "action": "action"}


def require(condition, message):
    """An assertion that also holds under `python -O`."""
    if not condition:
        sys.exit(f"FAILED: {message}")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(folder):
    root = Path(folder)
    meta = root / "meta"
    info = json.loads((meta / "info.json").read_text())
    modality = json.loads((meta / "modality.json").read_text())
    stats = json.loads((meta / "stats.json").read_text())
    relative = json.loads((meta / "relative_stats.json").read_text())
    tasks = {task["task_index"]: task["task"] for task in lines(meta / "tasks.jsonl")}
    episodes = lines(meta / "episodes.jsonl")
    require(len(episodes) == info["total_episodes"], "episodes.jsonl and info.json disagree")
    # GR00T computes all statistics anew if one floating-point feature lacks any of the six.
    for name, feature in info["features"].items():
        if "float" in feature["dtype"]:
            require(SIX <= set(stats.get(name, {})), f"stats.json has no complete statistics of {name}")
    for kind, feature in FEATURES.items():
        for name, part in modality[kind].items():
            for statistic in stats[feature]:
                got = len(stats[feature][statistic][part["start"] : part["end"]])
                require(got == part["end"] - part["start"], f"{statistic} of {kind}.{name} has {got} entries")
    for name, part in relative.items():
        require(SIX == set(part), f"relative statistics of {name} are {sorted(part)}")
        require(len({np.shape(values) for values in part.values()}) == 1, f"relative statistics of {name} are ragged")

    rows, chunk_size = 0, info["chunks_size"]
    for episode in episodes:
        index = episode["episode_index"]
        place = {"episode_chunk": index // chunk_size, "episode_index": index}
        frame = pd.read_parquet(root / info["data_path"].format(**place))
        require(len(frame) == episode["length"], f"episode {index} has {len(frame)} rows, not {episode['length']}")
        for kind, feature in FEATURES.items():
            for name, part in modality[kind].items():
                require(isinstance(frame[feature].iloc[0], np.ndarray), f"{feature} is no array")
                widths = {len(row[part["start"] : part["end"]]) for row in frame[feature]}
                require(widths == {part["end"] - part["start"]}, f"episode {index}: {kind}.{name} has widths {widths}")
        for name, annotation in modality["annotation"].items():
            texts = [tasks[number] for number in frame[annotation["original_key"]]]
            require(all(texts), f"episode {index}: annotation {name} is empty")
        for name, video in modality["video"].items():
            key = video["original_key"]
            require(key in info["features"], f"video.{name}: {key} is no feature")
            path = root / info["video_path"].format(video_key=key, **place)
            with av.open(str(path)) as container:
                frames = sum(1 for _ in container.decode(video=0))
            require(frames == len(frame), f"{path} has {frames} frames, the episode {len(frame)}")
        rows += len(frame)
    print(f"passed: {len(episodes)} episodes, {rows} frames, relative statistics of {sorted(relative)}")


if __name__ == "__main__":
    require(len(sys.argv) == 2, "usage: python scripts/check_gr00t.py FOLDER")
    main(sys.argv[1])
