"""`python -m w2a_workers libero PICTURES SLOTS`: one worker, driven over standard input and output."""

import sys
import traceback

from .pipe import Pictures, Pipe


def main():
    pipe = Pipe()
    simulator, path, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    first = pipe.read()
    if first is None:
        return
    try:
        if simulator != "libero":
            raise ValueError(f"simulator {simulator!r}: expected libero")
        from .libero import Libero

        world = Libero(first["settings"], slots)
        pictures = Pictures(path, slots, len(world.cameras), world.size, world.size)
    except Exception as error:
        pipe.write({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        return
    pipe.write({
        "cameras": world.cameras, "size": world.size, "state": world.state, "action": world.action,
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
