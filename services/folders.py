"""Files that ComfyUI does not list by itself: it lists and remembers them for us, under kinds of folders of our own."""

from pathlib import Path

import folder_paths

from ..base.state import state_file

GGUF, POSE = "steadydancer_gguf", "steadydancer_pose"
POSE_SUFFIXES = {".onnx", ".pth", ".safetensors"}


def state(name: str) -> Path:
    """Where a file is kept that outlasts a run."""
    return state_file(name, Path(folder_paths.get_user_directory()))


def register() -> None:
    """.gguf files among the diffusion models; pose nets in the detection folders and where controlnet_aux keeps its own."""
    kinds = folder_paths.folder_names_and_paths
    kinds[GGUF] = (kinds["diffusion_models"][0], {".gguf"})
    aux = [str(Path(p, "comfyui_controlnet_aux", "ckpts")) for p in folder_paths.get_folder_paths("custom_nodes")]
    kinds[POSE] = ([*folder_paths.get_folder_paths("detection"), *aux], POSE_SUFFIXES)


def pose_files() -> dict[str, str]:
    """File name → its path relative to one of the folders; the first of a name counts."""
    found: dict[str, str] = {}
    for path in folder_paths.get_filename_list(POSE):
        found.setdefault(Path(path).name, path)
    return found
