"""Tables with the names, shapes and types of SimplerEnv's environments, and no physics.

Three steps with the gripper well in one half (open for the WidowX, closed for Google's robot) are a success. Images are
of one colour: the steps so far, 0, and the seed.
"""

import types

import numpy as np

ENVIRONMENTS = ["widowx_spoon_on_towel", "widowx_put_eggplant_in_basket", "google_robot_pick_coke_can"]


class Table:
    def __init__(self, name):
        self.robot_uid = "widowx" if name.startswith("widowx") else "google_robot_static"
        self.unwrapped = types.SimpleNamespace(get_language_instruction=lambda: name.replace("_", " "))

    def reset(self, seed=None, options=None):
        assert self._max_episode_steps == 10000
        self.seed, self.steps, self.held, self.hand = seed, 0, 0, np.zeros(3, np.float32)
        return self.seen(), {}

    def step(self, action):
        assert action.shape == (7,) and -1 <= action[6] <= 1, action
        self.hand += 0.25 * action[:3]
        self.held += int(action[6] == (1 if self.robot_uid == "widowx" else -1))
        self.steps += 1
        solved = self.held >= 3
        return self.seen(), float(solved), solved, False, {}

    def seen(self):
        name, size = ("3rd_view_camera", (480, 640)) if self.robot_uid == "widowx" else ("overhead_camera", (512, 640))
        rgb = np.full((*size, 3), [self.steps, 0, self.seed], np.uint8)
        # A hand that points down, as the WidowX's does in Bridge's axes at rest, and a gripper that is a quarter open.
        pose = [*self.hand, 2**-0.5, 0.0, 2**-0.5, 0.0, 0.25]
        return {"agent": {"eef_pos": np.array(pose, np.float32)}, "image": {name: {"rgb": rgb}}}

    def close(self):
        pass


def make(name):
    return Table(name)
