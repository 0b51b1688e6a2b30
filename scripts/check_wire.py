"""Talks to `world2act serve` with clients of the two projects, and checks what comes back.

openpi: `openpi_client.websocket_client_policy` from PyPI, unmodified. GR00T: its client is in no package, so a ZeroMQ REQ
socket of pyzmq sends what `gr00t/policy/server_client.py` sends: msgpack with `numpy.save` inside.

    python scripts/check_wire.py target/release/world2act     # scripts/check-python.sh installs what it needs
"""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import msgpack
import numpy as np
import zmq
from openpi_client import websocket_client_policy

HORIZON = 16
TOKEN = "s3cret"
LANGUAGE = "annotation.human.action.task_description"
STATE = {"x": 1, "y": 1, "z": 1, "roll": 1, "pitch": 1, "yaw": 1, "gripper": 2}
ACTION = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def encode(value):
    if not isinstance(value, np.ndarray):
        return value
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(value):
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value.get("as_json", value)


class GrootClient:
    """A REQ socket that asks as GR00T's client does."""

    def __init__(self, port, token=None):
        self.socket = zmq.Context.instance().socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 15000)
        self.socket.connect(f"tcp://127.0.0.1:{port}")
        self.token = token

    def raw(self, frame):
        self.socket.send(frame)
        return self.socket.recv()

    def ask(self, endpoint, data=None):
        request = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self.token is not None:
            request["api_token"] = self.token
        return msgpack.unpackb(self.raw(msgpack.packb(request, default=encode)), object_hook=decode)


class Server:
    """The program under test, ended by a signal, with its answer to that checked."""

    def __init__(self, program, *arguments, env=None):
        command = [program, "serve", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.ready = self.process.stderr.readline()
        assert "serving" in self.ready, self.ready
        self.port = int(re.search(r"://[^:]+:(\d+)", self.ready)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.counted, _ = self.process.communicate(timeout=15)
        assert self.process.returncode == 0, self.process.returncode


def nested(rows, side=64):
    rng = np.random.default_rng(0)
    return {
        "video": {
            name: rng.integers(0, 255, (rows, 1, side, side, 3), dtype=np.uint8) for name in ["image", "wrist_image"]
        },
        "state": {name: np.zeros((rows, 1, width), np.float32) for name, width in STATE.items()},
        "language": {LANGUAGE: [["open the drawer"]] * rows},
    }


def flat(rows):
    observation = nested(rows)
    out = {f"video.{name}": array for name, array in observation["video"].items()}
    out |= {f"state.{name}": array for name, array in observation["state"].items()}
    # A column-major array, which numpy.save writes as it is.
    out["video.image"] = np.asfortranarray(out["video.image"])
    return out | {LANGUAGE: np.array(["close it"] * rows)}


def check_groot(program):
    with Server(program, "--policy", "zero", "--env", "libero", "--protocol", "groot", "--port", "0") as server:
        client = GrootClient(server.port)
        assert client.ask("ping") == {"status": "ok", "message": "Server is running"}
        config = client.ask("get_modality_config")
        assert config["action"]["delta_indices"] == list(range(HORIZON)), config
        assert config["video"]["modality_keys"] == ["image", "wrist_image"], config
        assert client.ask("reset", {"options": None}) == {}
        for rows in [1, 3]:
            action, info = client.ask("get_action", {"observation": nested(rows), "options": None})
            assert info == {} and list(action) == ACTION, (info, action)
            assert all(part.shape == (rows, HORIZON, 1) and part.dtype == np.float32 for part in action.values())
            action, _ = client.ask("get_action", {"observation": flat(rows), "options": {"a": 1}})
            assert list(action) == [f"action.{name}" for name in ACTION]
        wrong = nested(1)
        wrong["state"]["x"] = wrong["state"]["x"].astype(np.float64)
        error = client.ask("get_action", {"observation": wrong})["error"]
        assert "state.x: expected float32 of shape (B, 1, 1), got an array <f8 of shape [1, 1, 1]" in error, error
        assert client.ask("foo") == {"error": "Unknown endpoint: foo"}
        assert "error" in msgpack.unpackb(client.raw(b"\x81\xa8endpoint"))
        assert "--token-env" in client.ask("kill")["error"]
        assert client.ask("ping")["status"] == "ok"
    assert 'w2a_requests_total{endpoint="get_action",result="ok"} 4' in server.counted, server.counted


def check_groot_token(program):
    options = ["--policy", "random", "--env", "libero", "--protocol", "groot", "--port", "0", "--token-env", "W2A_CHECK"]
    with Server(program, *options, env={"W2A_CHECK": TOKEN}) as server:
        refused = {"error": "Unauthorized: Invalid API token"}
        assert GrootClient(server.port).ask("ping") == refused
        assert GrootClient(server.port, "wrong").ask("kill") == refused
        client = GrootClient(server.port, TOKEN)
        first, _ = client.ask("get_action", {"observation": nested(1)})
        second, _ = client.ask("get_action", {"observation": nested(1)})
        assert not np.array_equal(first["x"], second["x"]) and np.abs(first["x"]).max() <= 1
        assert client.ask("kill") is None
        assert server.process.wait(10) == 0


def check_many(program):
    with Server(program, "--policy", "zero", "--env", "libero", "--protocol", "groot", "--port", "0") as server:
        failures = []

        def work():
            client = GrootClient(server.port)
            for _ in range(20):
                action, _ = client.ask("get_action", {"observation": nested(1)})
                if action["x"].shape != (1, HORIZON, 1):
                    failures.append(action)

        threads = [threading.Thread(target=work) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures
    assert 'w2a_requests_total{endpoint="get_action",result="ok"} 160' in server.counted


def check_openpi(program):
    options = ["--policy", "zero", "--env", "libero", "--protocol", "openpi", "--port", "0", "--token-env", "W2A_CHECK"]
    with Server(program, *options, env={"W2A_CHECK": TOKEN}) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz") as page:
            assert page.status == 200 and page.read() == b"OK\n"
        try:
            websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            raise AssertionError("a client without the key was let in")
        except Exception as error:  # whatever the installed websockets raises for 401
            assert "401" in str(error), error
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port, TOKEN)
        metadata = client.get_server_metadata()
        assert metadata["action_horizon"] == HORIZON and "observation/state" in metadata["observation_keys"], metadata
        observation = {
            "observation/image": np.zeros((224, 224, 3), np.uint8),
            "observation/wrist_image": np.full((224, 224, 3), 7, np.uint8),
            "observation/state": np.zeros(8),
            "prompt": "pick up the black bowl",
        }
        for _ in range(3):
            answer = client.infer(observation)
            assert answer["actions"].shape == (HORIZON, 7), answer["actions"].shape
            assert answer["server_timing"]["infer_ms"] >= 0
        # Larger than any default limit of a frame.
        large = {**observation, "observation/image": np.zeros((4000, 4200, 3), np.uint8)}
        assert client.infer(large)["actions"].shape == (HORIZON, 7)
        try:
            client.infer({**observation, "observation/image": np.zeros((224, 224, 3), np.float32)})
            raise AssertionError("an image of floats was taken")
        except RuntimeError as error:
            assert "observation/image: expected uint8 of shape (H, W, 3), got an array <f4" in str(error), error
        assert client.infer(observation)["actions"].shape == (HORIZON, 7)


def main():
    program = sys.argv[1]
    for check in [check_groot, check_groot_token, check_many, check_openpi]:
        check(program)
        print(f"{check.__name__}: ok")


if __name__ == "__main__":
    main()
