"""The workers of RoboCasa and SimplerEnv, up to the border: `python -m unittest discover python/tests`.

Needs msgpack, numpy and pillow, as the workers do, and no simulator.
"""

import sys
import tempfile
import unittest

import msgpack
import numpy as np
import traffic

sys.path[:0] = [str(traffic.HERE / "fakes"), str(traffic.HERE.parent)]
from w2a_workers import robocasa, simpler  # noqa: E402


def split(data):
    messages = []
    while data:
        length = 4 + int.from_bytes(data[:4], "little")
        messages.append(data[:length])
        data = data[length:]
    return messages


class Border(unittest.TestCase):
    def test_workers_say_what_was_recorded(self):
        for name, (_, _, _, size, _) in traffic.CASES.items():
            with self.subTest(name):
                colours = []

                def look(answer, path):
                    pictures = np.fromfile(path, np.uint8)
                    if "answers" in answer:
                        colours.append(pictures.reshape(-1, *size, 3)[-1, -1, -1].tolist())

                made = [msgpack.unpackb(message[4:]) for message in traffic.converse(name, look)]
                kept = split((traffic.RECORDINGS / f"{name}.bin").read_bytes())
                kept = [msgpack.unpackb(message[4:]) for message in kept]
                for hello in (made[1], kept[1]):
                    # Those of numpy differ from machine to machine.
                    del hello["versions"]
                self.assertEqual(made, kept)
                self.assertEqual([colour[0] for colour in colours], [0, 1, 2, 3, 0, 1, 2, 3, 4, 5])

    def test_a_missing_simulator_is_said_and_what_to_do(self):
        for simulator in ("libero", "robocasa", "simpler"):
            with tempfile.NamedTemporaryFile() as file, traffic.worker(simulator, file.name, fakes=False) as process:
                answer = msgpack.unpackb(traffic.ask(process, traffic.pack({"settings": {}}))[4:])
                self.assertIn(f"this Python does not have {simulator} (No module named", answer["error"])
                self.assertIn("python/README.md", answer["error"])
                process.stdin.close()

    def test_what_is_wrong_is_an_answer_and_no_end(self):
        with tempfile.NamedTemporaryFile() as file, traffic.worker("simpler", file.name, slots=2) as process:
            settings = {"suite": "widowx", "height": 256, "width": 256, "settle_steps": 0, "seed": 0}
            hello = msgpack.unpackb(traffic.ask(process, traffic.pack({"settings": settings}))[4:])
            self.assertEqual((hello["size"], hello["control_hz"], hello["cameras"]), ([256, 256], 5, ["image_0"]))

            def answers(*wanted):
                found = traffic.ask(process, traffic.pack({"orders": list(wanted)}))
                return msgpack.unpackb(found[4:])["answers"]

            begin = {"suite": "widowx", "trial": 0}
            # No such task, and one that only the fork has.
            wrong = answers({"slot": 0, "task": 9, **begin}, {"slot": 1, "task": 4, **begin})
            self.assertIn("task 9 of widowx: expected 0 to 6", wrong[0]["error"])
            self.assertIn("this simpler_env does not have it", wrong[1]["error"])
            both = answers({"slot": 0, "task": 0, **begin}, {"slot": 1, "task": 0, "suite": "widowx", "trial": 3})
            self.assertEqual([answer["instruction"] for answer in both], ["widowx spoon on towel"] * 2)
            pictures = np.fromfile(file.name, np.uint8).reshape(2, 1, 256, 256, 3)
            self.assertEqual(pictures[:, 0, 7, 7, 2].tolist(), [0, 3])
            process.stdin.close()


class Adapters(unittest.TestCase):
    def test_an_action_is_split_by_names(self):
        parts = robocasa.command([float(value) for value in range(12)])
        self.assertEqual({name: part.tolist() for name, part in parts.items()}, {
            "action.end_effector_position": [0, 1, 2], "action.end_effector_rotation": [3, 4, 5],
            "action.gripper_close": [6], "action.base_motion": [7, 8, 9, 10], "action.control_mode": [11],
        })

    def test_a_kitchen_is_that_of_its_seed(self):
        settings = {"height": 256, "width": 256, "settle_steps": 0, "seed": 5}
        world = robocasa.Robocasa(settings, 1)
        first = world.reset(0, "kitchen", 7, 2)
        self.assertNotEqual(world.reset(0, "kitchen", 7, 4)[1], first[1])
        self.assertEqual(world.reset(0, "kitchen", 7, 0, seed=7)[1], first[1])
        with self.assertRaisesRegex(ValueError, "RoboCasa's wrapper"):
            robocasa.Robocasa({**settings, "width": 128}, 1)

    def test_angles_are_those_about_fixed_axes(self):
        half = np.radians([20.0, -35.0, 70.0]) / 2
        turn = lambda axis: simpler.rotation(np.array([np.cos(half[axis]), *(np.sin(half[axis]) * np.eye(3)[axis])]))
        np.testing.assert_allclose(simpler.angles(turn(2) @ turn(1) @ turn(0)), 2 * half, atol=1e-12)
        upright = simpler.rotation(np.array([2**-0.5, 0.0, 2**-0.5, 0.0]))
        np.testing.assert_allclose(simpler.angles(upright), [0.0, np.pi / 2, 0.0], atol=1e-7)
        # What points down in the simulator is the origin of Bridge's angles.
        down = np.array([0.0, 0.0, 0.0, 2**-0.5, 0.0, 2**-0.5, 0.0, 0.25])
        np.testing.assert_allclose(simpler.WidowX().observe(down), [0.0] * 7 + [0.25], atol=1e-7)

    def test_commands_of_googles_gripper_are_held(self):
        robot = simpler.GoogleRobot()
        self.assertEqual(robot.gripper(0.5), 0.0)
        # Fully closed for 15 steps, whatever comes then.
        self.assertEqual([robot.gripper(command) for command in [0.0] + [1.0] * 15], [1.0] * 15 + [-1.0])
        self.assertEqual(robot.observe(np.arange(8.0)), [0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 3.0, -6.0])


if __name__ == "__main__":
    unittest.main()
