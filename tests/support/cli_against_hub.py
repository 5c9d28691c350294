"""`cli.py` in a process of its own, whose models folder is fresh and whose hub is a local one: fixtures `hub` and `cli`."""

import os
import subprocess
import sys

import pytest

from . import ROOT
from .hub import Hub


@pytest.fixture
def hub(tmp_path):
    """A hub without files."""
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.stop()


@pytest.fixture
def cli(hub, tmp_path):
    """cli(*arguments, **variables) → the process when it has ended."""

    def run(*args, **variables):
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "MODELS_DIR": str(tmp_path / "models"), **variables}
        command = [sys.executable, str(ROOT / "cli.py"), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)

    return run


def tensor_file(size: int) -> bytes:
    """A safetensors file of one tensor of `size` random bytes."""
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    return len(header).to_bytes(8, "little") + header + os.urandom(size)
