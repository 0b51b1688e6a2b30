"""What the environments of a worker have in common."""

import importlib.metadata


class Slots:
    """Environments, one for each slot; one is built anew only where its task changes."""

    def __init__(self, count):
        self.held = [(None, None)] * count

    def __getitem__(self, slot):
        return self.held[slot][1]

    def hold(self, slot, key, build):
        """The environment of a task: the one that is there, or a new one of `build` in its place."""
        known, env = self.held[slot]
        if known != key:
            if env is not None:
                env.close()
            # Until the new one stands there is none.
            self.held[slot] = (None, None)
            env = build()
            self.held[slot] = (key, env)
        return env

    def close(self):
        for _, env in self.held:
            if env is not None:
                env.close()


def pick(tasks, task, suite):
    """The name of a suite's task by its number."""
    if not 0 <= task < len(tasks):
        raise ValueError(f"task {task} of {suite}: expected 0 to {len(tasks) - 1}")
    return tasks[task]


def versions(names):
    """Versions of packages; a checkout that is not installed has none."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def fitting(image, size):
    """An image of the size that was agreed on, which is what the other side reads."""
    if image.shape != (*size, 3):
        raise ValueError(f"an image of shape {image.shape}, expected {(*size, 3)}: the simulator is of another version")
    return image
