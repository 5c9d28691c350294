"""The subcommands of cli.py, one file each: `add_parser(subparsers)` declares it, `run(args) -> int` does it.

machine.py, checks.py, prompt.py and server.py are none: the options for cards and folders that several share, what `doctor`
looks at, API prompts, the ComfyUI that `queue` talks to.
"""

import os
import sys
from pathlib import Path

from ..base import environment

ROOT = Path(__file__).absolute().parents[1]


def comfyui() -> Path | None:
    """The base folder of the ComfyUI that this package is installed in, or None."""
    # the package may be linked into custom_nodes, and the shell's name of the current folder keeps the link
    shell = Path(environment.text("PWD", "."))
    here = shell if shell.is_dir() and shell.samefile(".") else Path.cwd()
    called = Path(os.path.abspath(here / sys.argv[0])).parent
    for folder in (called, ROOT):
        if folder.parent.name == "custom_nodes":
            return folder.parents[1]
    return None


def user_folder(base: Path | None) -> Path | None:
    """ComfyUI's user folder in its base folder; None where there is no ComfyUI."""
    return base / "user" if base else None
