"""Checks types with mypy: the package's, those of tools/ and dev.py, and what all of them ask of ComfyUI.

ComfyUI is read but not checked: a wrong argument that we give to comfy.* is an error, one inside it is not ours. What is
asked of our own code stands in pyproject.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import comfyui
from .comfyui import ROOT

OURS = ("-p", "steadydancer", "-p", "tools", "-m", "dev")


def check(comfyui_path: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """mypy's answer about all that is ours, with `python`'s packages; its exit code is 0 where there is no error."""
    with tempfile.TemporaryDirectory() as folder:
        return mypy(Path(folder), comfyui_path, OURS, python)


def mypy(
    folder: Path, comfyui_path: Path, targets: tuple[str, ...], python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """mypy's answer about `targets`, which may also be modules in `folder`, where the package gets its name by a link."""
    comfyui.link_package(folder)
    # ComfyUI before our own folder, whose nodes/ would hide its nodes.py
    paths = os.pathsep.join(map(str, (folder, comfyui_path, ROOT)))
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    return subprocess.run(
        [python, "-m", "mypy", *settings, *targets],
        env={**os.environ, "MYPYPATH": paths},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
