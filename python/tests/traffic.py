"""Recorded traffic between `world2act evaluate` and its workers, for tests on both sides of the pipe.

    python python/tests/traffic.py          writes it anew

A recording is orders and answers in turns, as they go over the pipe. The orders are what the program sends for two
episodes, one that ends by success; `crates/w2a-serve/tests/recorded/mod.rs` holds its own messages against them, byte
by byte. The answers are what the workers say with simulators that are played by `fakes`.
"""

import pathlib
import struct
import subprocess
import sys
import tempfile

import msgpack

HERE = pathlib.Path(__file__).resolve().parent
RECORDINGS = HERE.parents[1] / "crates/w2a-serve/testdata/workers"
# Name of the recording: simulator, suite, tasks of the two episodes, height and width, values of an action.
CASES = {
    "robocasa": ("robocasa", "kitchen", (7, 0), (256, 256), 12),
    "widowx": ("simpler", "widowx", (3, 0), (256, 256), 7),
    "google_robot": ("simpler", "google_robot", (0, 0), (256, 320), 7),
}
STEPS = 5


def pack(message):
    body = msgpack.packb(message)
    return struct.pack("<I", len(body)) + body


def orders(suite, tasks, size, width):
    """What the program sends: settings, and two episodes, in the first of which the gripper is told to close fully."""
    height, breadth = size
    settings = {"suite": suite, "height": height, "width": breadth, "settle_steps": 0, "seed": 0}
    messages = [{"settings": settings}]
    for trial, (task, steps) in enumerate(zip(tasks, (3, STEPS))):
        messages.append({"orders": [{"slot": 0, "task": task, "trial": trial, "suite": suite}]})
        action = [(place + 1) / 16 for place in range(width)]
        if trial == 0:
            action[6] = 1.0
        messages += [{"orders": [{"slot": 0, "actions": [action], "seeing": True}]}] * steps
    return [pack(message) for message in messages]


def worker(simulator, pictures, fakes=True, slots=1):
    """A worker's process; without the fakes its simulator is missing."""
    path = ([str(HERE / "fakes")] if fakes else []) + [str(HERE.parent)]
    code = f"import sys; sys.path[:0] = {path}; from w2a_workers.__main__ import main; main()"
    command = [sys.executable, "-c", code, simulator, pictures, str(slots)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def ask(process, order):
    process.stdin.write(order)
    process.stdin.flush()
    head = process.stdout.read(4)
    return head + process.stdout.read(struct.unpack("<I", head)[0])


def converse(name, look=lambda answer, pictures: None):
    """Orders and answers of a recording, made anew; `look` is shown every answer with the file of the pictures."""
    simulator, *rest = CASES[name]
    traffic = []
    with tempfile.NamedTemporaryFile() as pictures, worker(simulator, pictures.name) as process:
        for order in orders(*rest):
            answer = ask(process, order)
            look(msgpack.unpackb(answer[4:]), pictures.name)
            traffic += [order, answer]
        process.stdin.close()
    return traffic


if __name__ == "__main__":
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        (RECORDINGS / f"{name}.bin").write_bytes(b"".join(converse(name)))
