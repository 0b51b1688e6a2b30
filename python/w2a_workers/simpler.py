"""SimplerEnv as GR00T evaluates in it: the WidowX of Bridge (`oxe_widowx`) and Google's robot (`oxe_google`).

What is shown and commanded follows the robots' data sets: the WidowX's hand turned into Bridge's axes, Google's gripper
as how far it is closed, and its commands held, since that gripper is slow.
"""

import cv2
import numpy as np
import simpler_env
from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict

from .slots import Slots, fitting, pick, versions

SUITES = {
    "widowx": [
        "widowx_spoon_on_towel", "widowx_carrot_on_plate", "widowx_stack_cube", "widowx_put_eggplant_in_basket",
        "widowx_put_eggplant_in_sink", "widowx_open_drawer", "widowx_close_drawer",
    ],
    "google_robot": [
        "google_robot_pick_coke_can", "google_robot_pick_object", "google_robot_move_near", "google_robot_open_drawer",
        "google_robot_close_drawer", "google_robot_place_in_closed_drawer",
    ],
}
ACTION = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
# Longer than any episode: when one ends is decided on the other side.
NEVER = 10000
# Axes of the WidowX's hand in Bridge's data, in those of the simulator.
BRIDGE_AXES = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
# Steps for which a command to Google's gripper is held.
HELD_STEPS = 15


class WidowX:
    cameras, control_hz = ["image_0"], 5
    state = ["x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"]

    def observe(self, hand):
        """Position, three angles about fixed axes, an empty place, and how far the gripper is open."""
        return [*hand[:3], *angles(rotation(hand[3:7]) @ BRIDGE_AXES.T), 0.0, hand[7]]

    def gripper(self, command):
        return 1.0 if command > 0.5 else -1.0


class GoogleRobot:
    cameras, control_hz = ["image"], 3
    state = ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]

    def __init__(self):
        self.held, self.left = 0.0, 0

    def observe(self, hand):
        """Position, quaternion with its real part last, and how far the gripper is closed."""
        return [*hand[:3], *hand[4:7], hand[3], 1.0 - hand[7]]

    def gripper(self, command):
        """Closes (positive) or opens it; what is well in either half is held."""
        closing = 1.0 - 2.0 * command
        if self.left == 0 and abs(closing) > 0.5:
            self.held, self.left = closing, HELD_STEPS
        if self.left == 0:
            return closing
        self.left -= 1
        return self.held


ROBOTS = {"widowx": WidowX, "google_robot": GoogleRobot}


class Simpler:
    action = ACTION

    def __init__(self, settings, slots):
        self.settings, self.slots = settings, Slots(slots)
        self.suite, self.size = settings["suite"], (settings["height"], settings["width"])
        if self.suite not in ROBOTS:
            raise ValueError(f"suite {self.suite!r}: expected one of {', '.join(ROBOTS)}")
        robot = ROBOTS[self.suite]
        self.cameras, self.state, self.control_hz = robot.cameras, robot.state, robot.control_hz
        self.robots = [robot() for _ in range(slots)]

    def versions(self):
        return versions(["simpler_env", "mani_skill2_real2sim", "sapien", "numpy"])

    def reset(self, slot, suite, task, trial, seed=None):
        """Starts a trial of a task as its seed draws it; gives the instruction, the state and the image."""
        name = pick(SUITES[suite], task, suite)
        env = self.slots.hold(slot, name, lambda: build(name))
        self.robots[slot] = ROBOTS[self.suite]()
        seen, _ = env.reset(seed=self.settings["seed"] + trial if seed is None else seed)
        for _ in range(self.settings["settle_steps"]):
            seen = env.step(np.zeros(len(ACTION)))[0]
        words = env.unwrapped.get_language_instruction()
        return str(words), self.observe(slot, seen), self.look(env, seen)

    def step(self, slot, actions, seeing):
        """Carries out actions; gives whether the task was solved after one of them, the state and, if `seeing`, the
        image."""
        env, robot, success = self.slots[slot], self.robots[slot], False
        for action in actions:
            seen, _, done, _, _ = env.step(np.array([*action[:6], robot.gripper(action[6])]))
            success = success or bool(done)
        return success, self.observe(slot, seen), self.look(env, seen) if seeing else []

    def observe(self, slot, seen):
        return [float(value) for value in self.robots[slot].observe(np.asarray(seen["agent"]["eef_pos"], float))]

    def look(self, env, seen):
        height, width = self.size
        return [fitting(cv2.resize(get_image_from_maniskill2_obs_dict(env, seen), (width, height)), self.size)]

    def close(self):
        self.slots.close()


def build(name):
    if name not in simpler_env.ENVIRONMENTS:
        raise ValueError(f"task {name}: this simpler_env does not have it; the fork that GR00T's setup installs does")
    env = simpler_env.make(name)
    env._max_episode_steps = NEVER
    return env


def rotation(quaternion):
    """The matrix of a quaternion, its real part first."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])


def angles(matrix):
    """Roll, pitch and yaw: turns about the fixed axes x, y, z, in this order."""
    pitch = np.arctan2(-matrix[2, 0], np.hypot(matrix[0, 0], matrix[1, 0]))
    if np.hypot(matrix[0, 0], matrix[1, 0]) < 1e-7:
        # Upright: roll and yaw turn about one axis, and all of it counts as roll.
        return [np.arctan2(-matrix[1, 2], matrix[1, 1]), pitch, 0.0]
    return [np.arctan2(matrix[2, 1], matrix[2, 2]), pitch, np.arctan2(matrix[1, 0], matrix[0, 0])]
