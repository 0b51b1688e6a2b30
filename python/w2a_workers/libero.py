"""LIBERO's environments with everything that published protocols differ in as a setting."""

import importlib.util
import io
import os
import pickle
import sys
import zipfile

os.environ.setdefault("MUJOCO_GL", "osmesa")
# Where scripts/setup-libero.sh has put it.
os.environ.setdefault("LIBERO_CONFIG_PATH", os.path.join(sys.prefix, "libero"))

import libero.libero
import numpy as np
import robosuite.utils.transform_utils as transforms
from libero.libero.envs.env_wrapper import ControlEnv
from PIL import Image

from .drawing import lighten
from .slots import Slots, pick, versions

CAMERAS = {"image": "agentview", "wrist_image": "robot0_eye_in_hand"}
STATE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper_left", "gripper_right"]
ACTION = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
CONTROL_HZ = 20
OPEN = [0.0] * 6 + [-1.0]
# Deviation of the arm's joints at the start in radians, robosuite's default, which LIBERO's fixed states show.
ARM_NOISE = 0.02
FLIPS = {
    "none": lambda image: image,
    # LIBERO's own pictures stand on their heads; openpi and GR00T turn them, which also mirrors them.
    "rotate_180": lambda image: image[::-1, ::-1],
    "vertical": lambda image: image[::-1],
}
ROOT = os.path.dirname(libero.libero.__file__)


class _NumpyOnly(pickle.Unpickler):
    """Initial states are pickled arrays of numpy; nothing else is let through."""

    ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
               ("numpy.core.multiarray", "scalar"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"initial states ask for {module}.{name}, expected an array of numpy")
        return super().find_class(module, name)


def initial_states(suite, task):
    """The benchmark's fixed initial states of a task, one row each."""
    path = os.path.join(ROOT, "init_files", suite, f"{task}.pruned_init")
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return _NumpyOnly(io.BytesIO(archive.read(name))).load()


def tasks(suite):
    """Names of a suite's tasks, in the benchmark's order. Its own module would import torch."""
    path = os.path.join(ROOT, "benchmark", "libero_suite_task_map.py")
    spec = importlib.util.spec_from_file_location("libero_suite_task_map", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if suite not in module.libero_task_map:
        raise ValueError(f"suite {suite!r}: expected one of {', '.join(module.libero_task_map)}")
    return list(module.libero_task_map[suite])


class Libero:
    """`slots` environments; one is built anew only where its task changes."""

    cameras, state, action, control_hz = list(CAMERAS), STATE, ACTION, CONTROL_HZ

    def __init__(self, settings, slots):
        self.settings = settings
        self.flip = FLIPS[settings["flip"]]
        side = settings["resize"] or settings["render"]
        self.size = (side, side)
        self.slots = Slots(slots)

    def versions(self):
        return versions(["hf-libero", "robosuite", "mujoco", "numpy"]) | {"assets": assets()}

    def reset(self, slot, suite, task, trial, seed=None):
        """Starts a trial of a task; gives the instruction, the state and the images.

        With a `seed` the scene is the simulator's own draw of it, whatever the settings say.
        """
        name = pick(tasks(suite), task, suite)
        env = self.slots.hold(slot, (suite, task), lambda: self.build(suite, name))
        fixed = seed is None and self.settings["initial_states"] == "fixed"
        if seed is None:
            seed = self.settings["seed"] + (0 if fixed else trial)
        env.seed(seed)
        if not self.settings["rebuild"]:
            # What a reset leaves as the episode before had it: where the fingers were told to go.
            env.robots[0].gripper.current_action = np.zeros(env.robots[0].gripper.dof)
        seen = env.reset()
        if fixed:
            states = initial_states(suite, name)
            seen = env.set_init_state(states[trial % len(states)])
        elif self.settings["arm_noise"]:
            # As the fixed states came about: the arm is displaced, and the controller still knows the pose without noise.
            state, joints = env.get_sim_state(), env.robots[0]._ref_joint_pos_indexes
            state[1 + np.array(joints)] += np.random.RandomState(seed).normal(0, ARM_NOISE, len(joints))
            seen = env.set_init_state(state)
        if not self.settings["sensors"]:
            lighten(env.sim, self.settings["mesh_cell_mm"] / 1000, self.settings["samples"])
        # Objects start a little above the table and fall.
        for _ in range(self.settings["settle_steps"]):
            seen, _, _, _ = env.step(OPEN)
        return instruction(name), self.observe(seen), self.look(env, seen)

    def build(self, suite, name):
        side = self.settings["render"]
        return ControlEnv(
            bddl_file_name=os.path.join(ROOT, "bddl_files", suite, f"{name}.bddl"),
            controller=self.settings["controller"], control_freq=CONTROL_HZ, hard_reset=bool(self.settings["rebuild"]),
            has_offscreen_renderer=True, use_camera_obs=bool(self.settings["sensors"]),
            camera_heights=side, camera_widths=side,
        )

    def step(self, slot, actions, seeing):
        """Carries out actions; gives whether the task was solved after one of them, the state and, if `seeing`, the
        images."""
        env = self.slots[slot]
        success = False
        for action in actions:
            seen, _, _, _ = env.step(self.gripper(list(action)))
            success = success or bool(env.check_success())
        return success, self.observe(seen), self.look(env, seen) if seeing else []

    def gripper(self, action):
        if self.settings["gripper"] == "groot":
            # 0 closes and 1 opens in GR00T's data; here -1 opens and 1 closes.
            action[6] = -float(np.sign(2 * action[6] - 1))
        return action

    def observe(self, seen):
        state = np.concatenate([
            seen["robot0_eef_pos"],
            transforms.quat2axisangle(seen["robot0_eef_quat"].copy()),
            seen["robot0_gripper_qpos"],
        ])
        return [float(value) for value in state]

    def look(self, env, seen):
        """The images: those of the simulator's sensors, which draw at every step and see its beginning, or drawn now."""
        side = self.settings["render"]
        if self.settings["sensors"]:
            images = [seen[f"{name}_image"] for name in CAMERAS.values()]
        else:
            images = [env.sim.render(side, side, camera_name=name) for name in CAMERAS.values()]
        return [self.picture(image) for image in images]

    def picture(self, image):
        image = self.flip(image)
        height, width = self.size
        if height != self.settings["render"]:
            image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.BILINEAR))
        return image

    def close(self):
        self.slots.close()


def instruction(name):
    """The words of a task's name. Long suites put the scene in front: words in capitals, the last with a number."""
    words = name.split("_")
    scenes = [place for place, word in enumerate(words) if word.startswith("SCENE")]
    return " ".join(words[scenes[0] + 1 :] if scenes else words)


def assets():
    """What the assets say of themselves, as where some are stand-ins: the heading of their README."""
    path = os.path.join(ROOT, "assets", "README.md")
    if not os.path.exists(path):
        return "of hf-libero"
    with open(path, encoding="utf-8") as file:
        return file.readline().strip("# \n")
