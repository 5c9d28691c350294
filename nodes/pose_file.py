"""Poses as JSON files: kept for the next run, or edited elsewhere in between."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..services.node import Node
from ..services.progress import say
from ..services.save_name import clean_prefix, free_file, hidden
from .pose import CATEGORY, PoseKeypoint, people, read

FOLDER = "pose"  # below the output folder
LARGEST_FILE = 128 << 20  # bytes: ten minutes of one dancer


class SteadyDancerPoseSave(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerPoseSave",
            display_name="Save Pose (JSON)",
            category=CATEGORY,
            description="Saves poses as an OpenPose JSON file in the output folder, to load them again or edit them elsewhere.",
            search_aliases=["export pose", "openpose json", "keypoints file"],
            is_output_node=True,
            inputs=[
                PoseKeypoint.Input("keypoints", tooltip="Poses of a picture or video, from any estimator."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/SteadyDancer",
                    tooltip=f"Where in the output folder, and how the name begins. Load Pose lists what lies in {FOLDER}.",
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, keypoints: Any, filename_prefix: str) -> io.NodeOutput:
        poses = read(keypoints)
        output = folder_paths.get_output_directory()
        folder, name, counter, _, _ = folder_paths.get_save_image_path(clean_prefix(filename_prefix), output)
        path = free_file(Path(folder), name, counter, ".json")
        # as it came: writing the poses anew would hide or show points by another threshold
        text = json.dumps(keypoints, default=lambda value: value.tolist())
        try:
            hidden(path).write_text(text, encoding="utf-8")
            hidden(path).replace(path)
        except OSError as err:
            with suppress(OSError):
                hidden(path).unlink(missing_ok=True)
            raise ValueError(
                f"The poses could not be written to {path} ({err.strerror}). Free or unlock it, and run again."
            ) from err
        say(cls.hidden.unique_id, f"{len(poses.points)} frames saved as {path.relative_to(output).as_posix()}")
        return io.NodeOutput(str(path))


class SteadyDancerPoseLoad(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerPoseLoad",
            display_name="Load Pose (JSON)",
            category=CATEGORY,
            description="Loads poses from a JSON file: ours, controlnet_aux's, or an OpenPose editor's.",
            search_aliases=["import pose", "openpose json", "keypoints file"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_files(),
                    tooltip=f"A .json file in the input folder, or in {FOLDER} of the output folder, where Save Pose writes.",
                )
            ],
            outputs=[PoseKeypoint.Output("keypoints", display_name="keypoints")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        if file is not None and not folder_paths.exists_annotated_filepath(file):  # None: it is linked
            return f"The pose file {file} is not there any more. Press R to read the folders again, and choose another."
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> int:
        path = Path(folder_paths.get_annotated_filepath(file))
        return path.stat().st_mtime_ns if path.is_file() else 0

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        text = _text(Path(folder_paths.get_annotated_filepath(file)))
        poses = read(text)
        say(cls.hidden.unique_id, f"{len(poses.points)} frames of {poses.width}×{poses.height}, {people(poses)}")
        frames = json.loads(text)
        return io.NodeOutput(frames if isinstance(frames, list) else [frames])


def _text(path: Path) -> str:
    """What a file of poses says. Raises ValueError for a file that cannot be one."""
    try:
        if not path.is_file():
            raise ValueError(f"{path.name} is not a file. Choose another one.")
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(
                f"{path.name} has {path.stat().st_size:,} bytes, and poses take up to {LARGEST_FILE:,}. Choose a file of "
                "poses, or split it."
            )
        return path.read_text("utf-8-sig", errors="replace")
    except OSError as err:
        raise ValueError(f"{path.name} cannot be read ({err.strerror}). Choose another file.") from err


def _files() -> list[str]:
    """The files to choose from. Read from the disk for each schema, as Load Image's are: ComfyUI's remembered lists fail
    where a folder of theirs was deleted, and people do delete pose of the output folder."""
    given = sorted(path.name for path in Path(folder_paths.get_input_directory()).glob("*.json"))
    output = Path(folder_paths.get_output_directory())
    saved = sorted(path.relative_to(output).as_posix() for path in (output / FOLDER).rglob("[!.]*.json"))
    return given + [f"{name} [output]" for name in saved]
