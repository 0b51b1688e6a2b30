"""Messages over standard input and output, pictures through a file in memory.

A message is its length as four bytes, little-endian, and one msgpack map. Standard output belongs to the messages, so
whatever a simulator prints there is sent to standard error.
"""

import mmap
import os
import struct
import sys

import msgpack
import numpy as np

MAX_MESSAGE = 1 << 24


class Pipe:
    def __init__(self):
        self.source = os.fdopen(os.dup(0), "rb")
        self.sink = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def read(self):
        """The next message; None where the other side has left."""
        head = self.source.read(4)
        if len(head) < 4:
            return None
        (length,) = struct.unpack("<I", head)
        if length > MAX_MESSAGE:
            raise ValueError(f"a message claims {length} bytes, expected at most {MAX_MESSAGE}")
        body = self.source.read(length)
        return msgpack.unpackb(body) if len(body) == length else None

    def write(self, message):
        body = msgpack.packb(message)
        self.sink.write(struct.pack("<I", len(body)) + body)
        self.sink.flush()


class Pictures:
    """Images of all environments in one file: environment by environment, camera by camera, rows from the top."""

    def __init__(self, path, slots, cameras, height, width):
        shape = (slots, cameras, height, width, 3)
        size = int(np.prod(shape))
        with open(path, "r+b") as file:
            file.truncate(size)
            self.memory = mmap.mmap(file.fileno(), size)
        self.array = np.frombuffer(self.memory, np.uint8).reshape(shape)

    def put(self, slot, camera, image):
        self.array[slot, camera] = image
