"""Writes the HDF5 fixtures of crates/w2a-data/tests: tiny demonstrations in the forms of their sources.

    python -m venv venv && venv/bin/pip install h5py==3.16.0 numpy==2.4.6
    venv/bin/python scripts/hdf5_fixtures.py crates/w2a-data/tests/fixtures/hdf5

Every value says where it stands: action `d` of step `t` of demonstration `i` is `100 i + t + d / 10`, an observation
is that of its key plus 1000 (what was seen before action `t`), and the pixels of row `r` of an image are
`8 r + 2 t + i`, the top row first.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

STEPS = {0: 5, 2: 4, 10: 6}  # demo_10 sorts before demo_2 as text


def actions(demo, steps, width):
    return 100.0 * demo + np.arange(steps)[:, None] + np.arange(width) / 10


def seen(demo, steps, width):
    return (1000 + actions(demo, steps, width)).astype(np.float64)


def images(demo, steps):
    rows = 8 * np.arange(16)[None, :, None, None] + 2 * np.arange(steps)[:, None, None, None] + demo
    return np.broadcast_to(rows, (steps, 16, 24, 3)).astype(np.uint8)


def create(path, **how):
    file = h5py.File(path, "w", **how)
    data = file.create_group("data")
    data.attrs["total"] = sum(STEPS.values())
    return file, data


def demo(data, number, width, **how):
    group = data.create_group(f"demo_{number}")
    group.attrs["num_samples"] = STEPS[number]
    group.create_dataset("actions", data=actions(number, STEPS[number], width), **how)
    return group


def libero(folder):
    file, data = create(folder / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5")
    data.attrs["env_args"] = json.dumps({"type": 1, "env_name": "Libero_Kitchen", "env_kwargs": {"control_freq": 20}})
    data.attrs["bddl_file_name"] = "KITCHEN_SCENE3_turn_on_the_stove.bddl"
    data.attrs["macros_image_convention"] = "opengl"
    for number, steps in STEPS.items():
        group = demo(data, number, 7)
        # Row j was stored after action j: it is what is seen before action j + 1, bottom row first.
        after = lambda values: values[1:]
        for key, width in [("ee_pos", 3), ("ee_ori", 3), ("gripper_states", 2)]:
            group[f"obs/{key}"] = after(seen(number, steps + 1, width))
        for key in ["agentview_rgb", "eye_in_hand_rgb"]:
            upside_down = after(images(number, steps + 1))[:, ::-1]
            group.create_dataset(f"obs/{key}", data=upside_down, compression="gzip", shuffle=True)
    file.close()


def robocasa(folder):
    folder = folder / "PnPSinkToCounter" / "mg" / "2024-05-04"
    folder.mkdir(parents=True, exist_ok=True)
    file, data = create(folder / "demo_gentex_im128_randcams.hdf5")
    data.attrs["env_args"] = json.dumps({"env_name": "PnPSinkToCounter", "env_kwargs": {"control_freq": 20}})
    keys = {
        "base_pos": 3, "base_quat": 4, "base_to_eef_pos": 3, "base_to_eef_quat": 4, "eef_pos": 3, "eef_quat": 4,
        "gripper_qpos": 2, "gripper_qvel": 2, "joint_pos": 7, "joint_pos_cos": 7, "joint_pos_sin": 7, "joint_vel": 7,
    }  # fmt: skip
    for number, steps in STEPS.items():
        group = demo(data, number, 12)
        group.attrs["ep_meta"] = json.dumps({"lang": "pick the bäckerbrot from the sink", "layout_id": 3})
        for key, width in keys.items():
            group[f"obs/robot0_{key}"] = seen(number, steps, width)
        group["obs/robot0_agentview_left_image"] = images(number, steps)
    file.create_group("mask")["train"] = np.array([b"demo_10", b"demo_0"])
    file["mask/valid"] = np.array(["demo_2"], dtype=h5py.string_dtype())
    file.close()


def robomimic(path, **how):
    file, data = create(path, **how)
    data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
    for number, steps in STEPS.items():
        group = demo(data, number, 7, **({"compression": "gzip"} if how else {}))
        for key, width in [("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2)]:
            group[f"obs/robot0_{key}"] = seen(number, steps, width)
        group["obs/agentview_image"] = images(number, steps)
    file.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/hdf5_fixtures.py FOLDER")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    libero(out)
    robocasa(out)
    robomimic(out / "lift.hdf5")
    robomimic(out / "latest.hdf5", libver="latest")
