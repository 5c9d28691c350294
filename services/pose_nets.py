"""The detector and the pose net as ComfyUI runs them: found on disk or fetched, on its device, cancelled between layers."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.ops import manual_cast

from ..base.cancel import Cancelled, run_cancellable, stop_if
from ..catalog.catalog import catalogue
from ..formats import model_file, onnx_file
from ..loaders.build import ComfyPlaces
from ..pose.estimate import Net
from ..pose.weights import load_detector, load_pose_net
from .folders import POSE, pose_files
from .loading import fetch
from .progress import cancelled

AUTO = "auto"
DETECTORS, POSE_NETS = ("yolox",), ("dw-", "dwpose", "rtmw", "rtmpose")
# Memory of one item in float32 with its activations, and how many pay off at once.
DETECTOR_BYTES, DETECTOR_MOST = 300e6, 16
POSE_BYTES, POSE_MOST = 80e6, 64


def choices(words: tuple[str, ...]) -> list[str]:
    """What a user can choose: the published weights, fetched when missing, or a file that is on disk."""
    return [AUTO, *sorted(name for name in pose_files() if any(word in name.lower() for word in words))]


def path_of(choice: str, file_id: str) -> Path:
    """The weights file: the chosen one, or for auto the catalogue's, wherever it lies."""
    if choice == AUTO and ComfyPlaces().find(catalogue().files[file_id]):
        return fetch(file_id)[0]
    name = catalogue().files[file_id].name if choice == AUTO else choice
    listed = pose_files().get(name)
    path = folder_paths.get_full_path(POSE, listed) if listed else None
    if path is None and choice != AUTO:
        raise ValueError(f"The file {name} is not in models/detection any more. Choose another one, or auto.")
    return Path(path) if path else fetch(file_id)[0]


def stamp(path: Path) -> int:
    """Tells one state of the file from another. Raises ValueError where it is damaged or none."""
    model_file.require_whole([path])
    return path.stat().st_mtime_ns


def ready(detector: Path | None, pose: Path, batch: int, onnxruntime: bool) -> tuple[Net | None, Net]:
    """Detector and pose net of an estimate, loaded together and once for all of its batches.

    `detector`: the weights of YOLOX, where people are to be looked for. `pose`: those of DWPose or RTMW. `batch`: pictures
    or crops at once, 0 = as memory allows. Raises ValueError for a file that is damaged or no such model.
    """
    if onnxruntime:
        finder = _session(str(detector), stamp(detector), 1).net(batch or 1) if detector else None
        return finder, _session(str(pose), stamp(pose), 2).net(batch or 4)
    seeker = _patched(str(detector), stamp(detector), load_detector) if detector else None
    reader = _patched(str(pose), stamp(pose), load_pose_net)
    mm.load_models_gpu([net.patcher for net in (seeker, reader) if net])
    finder = None
    if seeker:
        finder = Net(seeker, seeker.device, batch or _batch(seeker.patcher, DETECTOR_BYTES, DETECTOR_MOST, 1))
    net: Any = reader.model
    return finder, Net(
        reader, reader.device, batch or _batch(reader.patcher, POSE_BYTES, POSE_MOST, 4), net.width, net.height
    )


def _batch(patcher: ModelPatcher, item_bytes: float, most: int, on_cpu: int) -> int:
    if patcher.load_device.type == "cpu":
        return on_cpu
    free = patcher.get_free_memory(patcher.load_device)  # and what dynamic VRAM gives back of other models
    return int(min(max(free / 2 / item_bytes, 1), most))


class Patched:
    """A net under ComfyUI's memory management. Cancel takes effect before its next convolution."""

    def __init__(self, model: Any) -> None:
        self.device = mm.get_torch_device()
        if mm.should_use_fp16(self.device):
            trunk = [model.backbone, model.neck] if hasattr(model, "head") else [model]
            for part in trunk:
                if part is not None:
                    part.half()
        for layer in model.modules():
            kinds: tuple[tuple[type, type], ...] = (
                (torch.nn.Conv2d, manual_cast.Conv2d),
                (torch.nn.Linear, manual_cast.Linear),
            )
            for kind, cast in kinds:
                if isinstance(layer, kind):
                    own: type = type(layer)
                    layer.__class__ = _casting(own, kind, cast)
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_pre_hook(stop_between_layers)
        self.model = model
        # Read here, since core exchanges the class at start-up.
        make = comfy.model_patcher.CoreModelPatcher
        self.patcher = make(model, load_device=self.device, offload_device=mm.unet_offload_device())

    def __call__(self, x: torch.Tensor) -> Any:
        with torch.no_grad():
            return self.model(x)


@lru_cache
def _casting(own: type, kind: type, cast: type) -> type:
    """The layer's class with ComfyUI's way to fetch weights that wait in RAM, where they do not fit on the card."""
    return cast if own is kind else type(own.__name__, (own, cast), {})


def stop_between_layers(*_: Any) -> None:
    """A hook that ends the estimate before the next convolution where the user pressed Cancel. Raises Cancelled."""
    stop_if(cancelled)


@lru_cache(maxsize=2)
def _patched(path: str, _changed: int, load: Callable[[Path], torch.nn.Module]) -> Patched:
    """The two nets in use stay in memory, or wherever ComfyUI moves them."""
    return Patched(load(Path(path)))


class Session:
    """The same with an installed onnxruntime on the CPU, which is faster there."""

    def __init__(self, path: str, outputs: int) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise ValueError("onnxruntime is not installed. Choose the runtime torch, or install onnxruntime.") from err
        if not path.endswith(".onnx"):
            raise ValueError("onnxruntime reads .onnx files only. Choose the runtime torch, or an .onnx file.")
        self.options = onnxruntime.RunOptions
        try:
            onnx_file.read(Path(path))  # a few bytes can make onnxruntime take gigabytes
        except onnx_file.Unusable:
            pass  # by us; onnxruntime can run a quantised net
        except ValueError as err:
            raise ValueError(f"{Path(path).name} cannot be read: {err}. Download it again.") from err
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as err:  # its own kinds, all of them a bad file
            raise ValueError(f"{Path(path).name} cannot be read. Download it again.") from err
        self.input = self.session.get_inputs()[0]
        sizes = self.input.shape[2:]
        if len(self.session.get_outputs()) != outputs or [type(size) for size in sizes] != [int, int]:
            raise ValueError(
                f"{Path(path).name} has other inputs or outputs than the published file, so onnxruntime cannot run it for "
                "this node. Choose the runtime torch, or the published file."
            )

    def net(self, batch: int) -> Net:
        """The net for an estimate; a file with a fixed batch decides for itself how much it takes."""
        fixed, _, height, width = self.input.shape
        return Net(self, torch.device("cpu"), fixed if isinstance(fixed, int) else batch, width, height)

    def __call__(self, x: torch.Tensor) -> Any:
        options, inputs = self.options(), {self.input.name: x.numpy()}
        try:
            parts = run_cancellable(lambda: self.session.run(None, inputs, options), cancelled)
        except Cancelled:
            options.terminate = True  # it ends after the layer that it is in
            raise
        parts = [torch.from_numpy(part) for part in parts]
        return parts[0] if len(parts) == 1 else tuple(parts)


@lru_cache(maxsize=2)
def _session(path: str, _changed: int, outputs: int) -> Session:
    return Session(path, outputs)
