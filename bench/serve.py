#!/usr/bin/env python3
"""Compares `world2act serve --policy zero` with a GR00T-style server of pyzmq around the same policy, in alternating turns.

    python -m venv wire && wire/bin/pip install pyzmq==27.0.1 msgpack==1.1.0 numpy==1.26.4
    wire/bin/python bench/serve.py target/release/world2act

Clients are processes that send one frame, packed before, over a ZeroMQ REQ socket and take the answer as bytes, so that
the time is the server's and the wire's and not the client's. For each number of clients and size of observation it prints
the median and the 99th percentile of the round trip and the requests a second, of both, and their ratios with the
quartiles over turns. `--floor` adds a server of pyzmq that looks at nothing and answers with bytes made before: what is
left is the client and the wire.

`--steady MINUTES` holds 250 requests a second with images of 2x224x224 instead, with `--run RUN` for the base policy of
a run:

    target/release/world2act policy --profile smoke --out runs/steady
    wire/bin/python bench/serve.py target/release/world2act --steady 10 --run runs/steady
"""

import argparse
import io
import multiprocessing
import pathlib
import statistics
import subprocess
import time

import msgpack
import numpy as np
import zmq

ROOT = pathlib.Path(__file__).resolve().parent.parent
HORIZON = 16
# Cameras and state of `--env libero` and of a run in the embedded benchmark.
LIBERO = (["image", "wrist_image"], {"x": 1, "y": 1, "z": 1, "roll": 1, "pitch": 1, "yaw": 1, "gripper": 2})
TABLETOP = (["agent", "wrist"], dict.fromkeys(
    ["x", "y", "z", "roll", "pitch", "yaw_sin", "yaw_cos", "vx", "vy", "vz", "aperture"], 1))
ACTION = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def encode(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(value):
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


def request(side, layout=LIBERO):
    cameras, state = layout
    images = {name: np.full((1, 1, side, side, 3), 7, np.uint8) for name in cameras}
    states = {name: np.zeros((1, 1, width), np.float32) for name, width in state.items()}
    language = {"annotation.human.action.task_description": [["open the drawer"]]}
    observation = {"video": images, "state": states, "language": language}
    data = {"observation": observation, "options": None}
    return msgpack.packb({"endpoint": "get_action", "data": data}, default=encode)


def python_server(port):
    """The loop of GR00T's server around actions of zero."""
    socket = zmq.Context().socket(zmq.REP)
    socket.bind(f"tcp://127.0.0.1:{port}")
    while True:
        asked = msgpack.unpackb(socket.recv(), object_hook=decode)
        rows = len(asked["data"]["observation"]["video"]["image"])
        action = {name: np.zeros((rows, HORIZON, 1), np.float32) for name in ACTION}
        socket.send(msgpack.packb([action, {}], default=encode))


def floor_server(port):
    """Takes requests and answers, and does nothing else."""
    socket = zmq.Context().socket(zmq.REP)
    socket.bind(f"tcp://127.0.0.1:{port}")
    action = {name: np.zeros((1, HORIZON, 1), np.float32) for name in ACTION}
    answer = msgpack.packb([action, {}], default=encode)
    while True:
        socket.recv(copy=False)
        socket.send(answer)


def client(port, side, seconds, rate, layout, out):
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(f"tcp://127.0.0.1:{port}")
    frame, times = request(side, layout), []
    for _ in range(3):
        socket.send(frame)
        socket.recv()
    begun = due = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        if rate:
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        before = time.perf_counter()
        socket.send(frame, copy=False)
        answer = socket.recv(copy=False)
        times.append(time.perf_counter() - before)
        assert len(answer.buffer) > 100, bytes(answer.buffer)
    out.put((times, time.perf_counter() - begun))


def measure(port, side, clients, seconds, rate=0, layout=LIBERO):
    out = multiprocessing.Queue()
    options = (port, side, seconds, rate, layout, out)
    workers = [multiprocessing.Process(target=client, args=options) for _ in range(clients)]
    [worker.start() for worker in workers]
    results = [out.get(timeout=60 + 3 * seconds) for _ in workers]
    [worker.join() for worker in workers]
    times = sorted(value for found, _ in results for value in found)
    throughput = sum(len(found) / took for found, took in results)
    return times[len(times) // 2], times[int(0.99 * len(times))], throughput


def spread(ratios):
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return f"{statistics.median(ratios):.2f} [{quartiles[0]:.2f}, {quartiles[2]:.2f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=str(ROOT / "target/release/world2act"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn of one side")
    parser.add_argument("--floor", action="store_true", help="measure a server that does nothing, too")
    parser.add_argument("--steady", type=float, metavar="MINUTES", help="hold 250 requests a second for so long")
    parser.add_argument("--run", help="for --steady: a run of the embedded benchmark whose base policy is served")
    args = parser.parse_args()
    policy = ["mini:" + args.run] if args.run else ["zero", "--env", "libero"]
    command = [args.program, "serve", "--policy", *policy, "--protocol", "groot", "--port", "5601"]
    ours = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    print(ours.stderr.readline().strip())
    others = [python_server, floor_server] if args.floor else [python_server]
    others = [multiprocessing.Process(target=of, args=(5602 + at,), daemon=True) for at, of in enumerate(others)]
    ports = range(5601, 5602 + len(others))
    try:
        if args.steady:
            median, tail, rate = measure(5601, 224, 1, 60 * args.steady, 250, TABLETOP if args.run else LIBERO)
            print(f"{args.steady:g} min: {rate:.1f} Hz, p50 {median * 1e3:.2f} ms, p99 {tail * 1e3:.2f} ms")
            return
        [process.start() for process in others]
        floor = " floor p50 (ms) | floor / Python throughput |" if args.floor else ""
        print("| observation | clients | ours p50, p99 (ms) | Python p50, p99 (ms) | p50 ratio | ours / Python throughput |" + floor)
        print("|---|---|---|---|---|---|" + "---|---|" * bool(floor))
        for name, side in [("0.4 MB", 258), ("12 MB", 1414)]:
            for clients in [1, 8]:
                turns = []
                for _ in range(args.turns):
                    turns.append([measure(port, side, clients, args.seconds) for port in ports])
                middle = [[statistics.median(turn[who][what] for turn in turns) for what in range(2)] for who in range(2)]
                p50 = spread([turn[0][0] / turn[1][0] for turn in turns])
                throughput = spread([turn[0][2] / turn[1][2] for turn in turns])
                cells = [", ".join(f"{value * 1e3:.2f}" for value in side_of) for side_of in middle]
                row = f"| {name} | {clients} | {cells[0]} | {cells[1]} | {p50} | {throughput} |"
                if args.floor:
                    least = statistics.median(turn[2][0] for turn in turns) * 1e3
                    row += f" {least:.2f} | {spread([turn[2][2] / turn[1][2] for turn in turns])} |"
                print(row, flush=True)
    finally:
        ours.terminate()
        [process.terminate() for process in others if process.pid]


if __name__ == "__main__":
    main()
