"""GGUF files that are larger than the memory there is: they are opened, and their headers are read."""

import os
import subprocess
import sys

import numpy as np
import pytest
from steadydancer.formats.gguf_file import open_gguf
from support import TESTS
from support.gguf_writer import write_gguf

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="Linux counts what may be written as memory that may be needed"
)


def file_of(path, size):
    """A file with one small tensor and a hole up to `size` bytes."""
    weights = np.arange(32, dtype="<f4")
    write_gguf(path, {"norm.weight": ("F32", (32,), weights.tobytes())})
    os.truncate(path, max(size, path.stat().st_size))
    return path


def memory_and_swap() -> int:
    lines = dict(line.split(":") for line in open("/proc/meminfo"))
    return 1024 * sum(int(lines[name].split()[0]) for name in ("MemTotal", "SwapTotal"))


@LINUX
@pytest.mark.parametrize("times", [1.2, 3])
def test_a_file_larger_than_ram_and_swap(tmp_path, times):
    file = open_gguf(file_of(tmp_path / "large.gguf", int(times * memory_and_swap())))
    assert file.raw("norm.weight").tolist() == list(range(32))


@LINUX
def test_what_is_written_stays_in_memory(tmp_path):
    """Pages that can be locked for copies to a GPU are private: the file is never changed."""
    path = file_of(tmp_path / "small.gguf", 1 << 20)
    before = path.read_bytes()
    file = open_gguf(path)
    file.buffer[file.tensors["norm.weight"].start] = 255
    assert path.read_bytes() == before


@LINUX
@pytest.mark.parametrize("room", [1 << 30, 3 << 30], ids=["a quarter", "three quarters"])
def test_a_limit_on_private_memory(tmp_path, room):
    """As a container or a strictly counting system sets it: the file is read-only then, and opened all the same."""
    path = file_of(tmp_path / "large.gguf", 4 << 30)
    code = f"""
import resource
import support
resource.setrlimit(resource.RLIMIT_DATA, ({room}, {room}))
from pathlib import Path
from steadydancer.formats.gguf_file import open_gguf
file = open_gguf(Path({str(path)!r}))
print(file.tensors["norm.weight"].shape, len(file.buffer))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["(32,)", str(4 << 30)]
