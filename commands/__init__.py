"""The subcommands of cli.py, one file each: `add_parser(subparsers)` declares it, `run(args) -> int` does it.

machine.py is no subcommand: it has the options for cards and folders that several share.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]


def comfyui() -> Path | None:
    """The base folder of the ComfyUI that this package is installed in, or None."""
    called = Path(sys.argv[0]).absolute().parent  # the package may be linked into custom_nodes
    for folder in (called, ROOT):
        if folder.parent.name == "custom_nodes":
            return folder.parents[1]
    return None


def user_folder(base: Path | None) -> Path:
    """ComfyUI's user folder in its base folder; where there is no ComfyUI, the home folder's one for settings."""
    return base / "user" if base else Path.home() / ".config"
