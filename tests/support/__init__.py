"""What the tests and the demo share. Importing it loads the package under its fixed name, `steadydancer`."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"

# The repository root on sys.path would hide ComfyUI's nodes.py behind our nodes/.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT]


def _load_package() -> None:
    spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
    cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    cli.load_package()


_load_package()


def fixtures() -> Path | None:
    """The folder of real input beside the checkout, or None where there is none."""
    folder = ROOT.parent / "shared" / "fixtures"
    return folder if folder.is_dir() else None
