"""A small GGUF file, and what it costs to open copies of it in which something is wrong."""

import random
import struct
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from steadydancer.formats.gguf_file import open_gguf

from .gguf_writer import quantise, write_gguf
from .work import CallCounter


@dataclass
class Cost:
    """How many files were refused, and the most that one of them took: function calls, bytes of memory."""

    refused: int = 0
    calls: int = 0
    memory: int = 0


def write_small(path: Path) -> Path:
    """Three tensors and three arrays."""
    values = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    tensors = {
        "blocks.0.weight": ("Q4_K", (4, 256), quantise(values, "Q4_K")),
        "blocks.0.bias": ("F32", (4,), quantise(values[:, 0], "F32")),
        "blocks.1.weight": ("Q8_0", (2, 2, 256), quantise(values, "Q8_0")),
    }
    metadata = {"tokenizer.ggml.tokens": ["a", "bc"], "tokenizer.ggml.scores": [0.5, 1.5], "comfy.gguf.n": [3, 4]}
    return write_gguf(path, tensors, metadata)


def open_broken_files(original: Path, path: Path, count: int) -> Cost:
    """Opens `count` broken copies of `original`, one after the other at `path`, and all of their tensors.

    Raises AssertionError where one is refused in other words than a sentence for the user.
    """
    content, rng, cost = original.read_bytes(), random.Random(0), Cost()
    tracemalloc.start()
    for _ in range(count):
        path.write_bytes(broken(content, rng))
        tracemalloc.reset_peak()
        with CallCounter() as calls:
            try:
                file = open_gguf(path)
                for name in file.tensors:
                    file.raw(name)
            except ValueError as err:
                assert "cannot be loaded, because" in str(err), err
                cost.refused += 1
        cost.calls = max(cost.calls, calls.count)
        cost.memory = max(cost.memory, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return cost


def broken(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, removed, doubled, counts made huge, or the end cut off, at one to four places."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), 420))
        change = rng.randrange(5)
        if change == 0:
            data[at] = rng.randrange(256)
        elif change == 1:
            del data[at : at + rng.randint(1, 64)]
        elif change == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif change == 3:
            data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1 << 31, 1 << 62, 2**64 - 1, rng.getrandbits(64)]))
        else:
            del data[rng.randrange(len(data)) + 1 :]
    return bytes(data)
