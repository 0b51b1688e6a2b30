"""`python -m w2a_workers SIMULATOR PICTURES SLOTS`: one worker, driven over standard input and output."""

import importlib
import sys
import traceback

from .pipe import Pictures, Pipe

# Imported when asked for: a Python has one of the simulators.
WORLDS = {"libero": "Libero", "robocasa": "Robocasa", "simpler": "Simpler"}


def world_of(simulator):
    if simulator not in WORLDS:
        raise ValueError(f"simulator {simulator!r}: expected one of {', '.join(WORLDS)}")
    try:
        module = importlib.import_module(f".{simulator}", __package__)
    except ImportError as error:
        missing = f"this Python does not have {simulator} ({error}); python/README.md says what to install"
        raise ImportError(missing) from error
    return getattr(module, WORLDS[simulator])


def main():
    pipe = Pipe()
    simulator, path, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    first = pipe.read()
    if first is None:
        return
    try:
        world = world_of(simulator)(first["settings"], slots)
        pictures = Pictures(path, slots, len(world.cameras), *world.size)
    except Exception as error:
        pipe.write({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        return
    pipe.write({
        "cameras": world.cameras, "size": list(world.size), "state": world.state, "action": world.action,
        "control_hz": world.control_hz, "versions": world.versions(),
    })
    while (message := pipe.read()) is not None:
        answers = []
        for order in message["orders"]:
            slot = order["slot"]
            try:
                if "actions" in order:
                    success, state, images = world.step(slot, order["actions"], order["seeing"])
                    answer = {"success": success}
                else:
                    words, state, images = world.reset(
                        slot, order["suite"], order["task"], order["trial"], order.get("seed"))
                    answer = {"instruction": words}
                for camera, image in enumerate(images):
                    pictures.put(slot, camera, image)
                answers.append({"slot": slot, "state": state, **answer})
            except Exception as error:
                # The environment may be in any state now: the other side starts the episode again.
                traceback.print_exc()
                answers.append({"slot": slot, "error": f"{type(error).__name__}: {error}"})
        pipe.write({"answers": answers})
    world.close()


if __name__ == "__main__":
    main()
