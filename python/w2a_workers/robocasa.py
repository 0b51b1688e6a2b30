"""RoboCasa's kitchens as GR00T evaluates in them: the gymnasium environments of the fork that its setup installs.

Images are its own, of 256 pixels a side: left and right of the robot, and at its wrist. The robot is a Panda on an
Omron base: `robocasa_panda_omron`.
"""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium
import numpy as np
import robocasa.utils.gym_utils  # noqa: F401  registers the environments

from .slots import Slots, fitting, pick, versions

SUITES = {
    # In the order of GR00T's table of results.
    "kitchen": [
        "CoffeeSetupMug", "CoffeeServeMug", "CoffeePressButton", "OpenSingleDoor", "OpenDoubleDoor", "CloseSingleDoor",
        "CloseDoubleDoor", "OpenDrawer", "CloseDrawer", "TurnOnMicrowave", "TurnOffMicrowave", "PnPCounterToCab",
        "PnPCabToCounter", "PnPCounterToSink", "PnPSinkToCounter", "PnPCounterToMicrowave", "PnPMicrowaveToCounter",
        "PnPCounterToStove", "PnPStoveToCounter", "TurnOnSinkFaucet", "TurnOffSinkFaucet", "TurnSinkSpout",
        "TurnOnStove", "TurnOffStove",
    ],
}
CAMERAS = ["res256_image_side_0", "res256_image_side_1", "res256_image_wrist_0"]
STATE = {
    "gripper_qpos": 2, "base_position": 3, "base_rotation": 4, "end_effector_position_relative": 3,
    "end_effector_rotation_relative": 4,
}
ACTION = {
    "end_effector_position": 3, "end_effector_rotation": 3, "gripper_close": 1, "base_motion": 4, "control_mode": 1,
}
SIZE = (256, 256)


def names(parts):
    return [f"{name}_{place}" for name, width in parts.items() for place in range(width)]


class Robocasa:
    cameras, state, action, control_hz = CAMERAS, names(STATE), names(ACTION), 20

    def __init__(self, settings, slots):
        self.settings, self.slots = settings, Slots(slots)
        self.size = (settings["height"], settings["width"])
        if self.size != SIZE:
            raise ValueError(f"images of {self.size}: RoboCasa's wrapper for GR00T makes them {SIZE}")

    def versions(self):
        return versions(["robocasa", "robosuite", "mujoco", "gymnasium", "numpy"])

    def reset(self, slot, suite, task, trial, seed=None):
        """Starts a trial of a task in the kitchen of its seed; gives the instruction, the state and the images."""
        name = pick(SUITES[suite], task, suite)
        env = self.slots.hold(slot, name, lambda: build(name))
        seed = self.settings["seed"] + trial if seed is None else seed
        # The kitchen is drawn by the simulator's own generator, which the wrapper does not seed.
        env.unwrapped.env.rng = np.random.default_rng(seed)
        seen, _ = env.reset(seed=seed)
        for _ in range(self.settings["settle_steps"]):
            seen = env.step(command([0.0] * len(self.action)))[0]
        words = [value for name, value in seen.items() if name.startswith("annotation.")]
        return str(words[0]), self.observe(seen), self.look(seen)

    def step(self, slot, actions, seeing):
        """Carries out actions; gives whether the task was solved after one of them, the state and, if `seeing`, the
        images."""
        success = False
        for action in actions:
            seen, _, _, _, info = self.slots[slot].step(command(action))
            success = success or bool(info["success"])
        return success, self.observe(seen), self.look(seen) if seeing else []

    def observe(self, seen):
        return [float(value) for name in STATE for value in seen[f"state.{name}"]]

    def look(self, seen):
        return [fitting(seen[f"video.{name}"], self.size) for name in CAMERAS]

    def close(self):
        self.slots.close()


def build(name):
    return gymnasium.make(f"robocasa_panda_omron/{name}_PandaOmron_Env", enable_render=True)


def command(action):
    """The parts of an action by their names; the wrapper turns gripper and mode, of 0 to 1, into signs."""
    parts, begin = {}, 0
    for name, width in ACTION.items():
        parts[f"action.{name}"] = np.array(action[begin : begin + width])
        begin += width
    return parts
