"""A kitchen with the names, shapes and types of the wrapper in GR00T's fork of RoboCasa, and no physics.

The hand moves by a quarter of its command; three steps with a closing gripper are a success. Images are of one colour:
the steps so far, the camera, and a number that the kitchen's generator draws.
"""

import types

import gymnasium
import numpy as np

ACTION = {
    "action.end_effector_position": 3, "action.end_effector_rotation": 3, "action.gripper_close": 1,
    "action.base_motion": 4, "action.control_mode": 1,
}
CAMERAS = ["video.res256_image_side_0", "video.res256_image_side_1", "video.res256_image_wrist_0"]


class Kitchen:
    def __init__(self, enable_render):
        assert enable_render
        # The environment of robosuite below, with its generator.
        self.env = types.SimpleNamespace(rng=np.random.default_rng())

    def reset(self, seed=None, options=None):
        self.hand, self.steps, self.closed = np.zeros(3, np.float32), 0, 0
        self.drawn = int(self.env.rng.integers(64)) * 2 + seed % 2
        return self.seen(), {"success": False}

    def step(self, action):
        assert {name: value.shape for name, value in action.items()} == {k: (v,) for k, v in ACTION.items()}, action
        self.hand += 0.25 * action["action.end_effector_position"]
        self.closed += int(action["action.gripper_close"][0] >= 0.5)
        self.steps += 1
        solved = self.closed >= 3
        return self.seen(), float(solved), False, False, {"success": solved}

    def seen(self):
        state = {
            "state.gripper_qpos": [0.5, -0.5], "state.base_position": [self.drawn, 0.0, 1.0],
            "state.base_rotation": [0.0, 0.0, 0.0, 1.0], "state.end_effector_position_relative": self.hand,
            "state.end_effector_rotation_relative": [1.0, 0.0, 0.0, 0.0],
        }
        images = {
            name: np.full((256, 256, 3), [self.steps, camera, self.drawn], np.uint8)
            for camera, name in enumerate(CAMERAS)
        }
        words = {"annotation.human.action.task_description": "close the drawer"}
        return {name: np.array(value, np.float32) for name, value in state.items()} | images | words

    def close(self):
        pass


for task in ["CoffeeSetupMug", "OpenDrawer"]:
    gymnasium.REGISTERED[f"robocasa_panda_omron/{task}_PandaOmron_Env"] = Kitchen
