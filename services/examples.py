"""The example workflows' own pictures and videos, so that a template runs at the first press of Run."""

import os
import shutil
from pathlib import Path

import folder_paths

INPUTS = Path(__file__).resolve().parents[1] / "example_workflows" / "inputs"


def place_example_inputs() -> None:
    """Copies what is missing of steadydancer_example_* (2 MB) into ComfyUI's input folder.

    Raises OSError where that cannot be.
    """
    for source in INPUTS.iterdir():
        target = Path(folder_paths.get_input_directory()) / source.name
        if not target.exists():
            part = target.with_name(f".{target.name}.{os.getpid()}.part")  # servers may share the folder
            try:
                shutil.copyfile(source, part)
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
