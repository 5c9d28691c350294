"""Did it dance? The result measured against its picture and its poses."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import InputImpl, Types, io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..base.cancel import stop_if
from ..machine.memory import free_ram
from ..pose.estimate import Settings, estimate, rgb
from ..pose.keypoints import Poses
from ..report.figure import Figure
from ..report.person import crop, likeness
from ..report.report import comparable, make_report, text
from ..report.sheet import sheet
from ..report.side_by_side import Trio, covering
from ..services import pose_nets
from ..services.node import Node
from ..services.progress import NodeProgress, cancelled, interruptible, say
from ..services.save_name import clean_prefix, free_file, hidden
from .pose import ONNXRUNTIME, PoseKeypoint, net_inputs, read

TALLEST = 512  # pixels of the side-by-side video
EVERY = 4  # frames between two that CLIP looks at
OUTPUTS = 4


class SteadyDancerDanceReport(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerDanceReport",
            display_name="Dance Report",
            category="SteadyDancer/result",
            description="Measures a result: does it follow the poses, keep the person, and stay still where it should?",
            search_aliases=["quality", "measure", "ssim", "flicker", "oks", "pck", "compare"],
            is_output_node=True,
            inputs=[
                io.Boolean.Input("enabled", default=True, tooltip="Off: nothing is computed for the report at all."),
                io.Image.Input("images", lazy=True, tooltip="The frames of the result, as they were decoded."),
                io.Image.Input("picture", lazy=True, tooltip="The picture of the person. Its middle is taken."),
                PoseKeypoint.Input(
                    "keypoints",
                    lazy=True,
                    tooltip="The poses that were asked for: positive of Align Pose to Reference.",
                ),
                io.Audio.Input(
                    "audio", optional=True, lazy=True, tooltip="The dance's sound, for the side-by-side video."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    lazy=True,
                    tooltip="CLIP-ViT-H, to also measure how alike the person stays. Every fourth frame is looked at.",
                ),
                io.Float.Input(
                    "fps", default=16.0, min=1.0, max=240.0, step=0.01, tooltip="Frames a second of the result."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="report/SteadyDancer",
                    tooltip="Where in the output folder the numbers are saved as JSON; cli.py report compares such files.",
                ),
                *net_inputs(),
            ],
            outputs=[
                io.String.Output("report", display_name="report"),
                io.String.Output("json", display_name="json"),
                io.Image.Output("sheet", display_name="sheet"),
                io.Video.Output("side_by_side", display_name="side_by_side"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def check_lazy_status(cls, enabled: bool, **inputs: Any) -> list[str]:
        return [name for name, value in inputs.items() if value is None] if enabled else []

    @classmethod
    def execute(
        cls,
        enabled: bool,
        fps: float,
        filename_prefix: str,
        detector: str,
        pose_model: str,
        runtime: str,
        images: Any = None,
        picture: Any = None,
        keypoints: Any = None,
        audio: Any = None,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        if not enabled:
            return io.NodeOutput(*[ExecutionBlocker(None)] * OUTPUTS)
        if not len(picture):
            raise ValueError("The picture is an empty batch. Connect the picture of the person.")
        asked = read(keypoints)
        count, height, width = images.shape[:3]
        comparable(asked, count, width, height)  # refused before any network is loaded
        frames = rgb(images).float().cpu()
        cover = torch.from_numpy(covering(rgb(picture[:1])[0].float().cpu().numpy(), width, height))
        progress = NodeProgress(cls.hidden.unique_id)
        people = Settings(max_people=asked.points.shape[1] + 1, detect_every=5)
        nets = pose_nets.ready(
            pose_nets.path_of(detector, "yolox-l"),
            pose_nets.path_of(pose_model, "dw-ll-ucoco-384"),
            0,
            runtime == ONNXRUNTIME,
        )
        with interruptible():
            found = estimate(frames, *nets, people, None, progress, cancelled)
            of_picture = estimate(cover[None], *nets, people, None, lambda done, total, doing: None, cancelled)
            arrays = frames.numpy(), cover.numpy()
            report = make_report(*arrays, asked, found, of_picture, float(fps), progress, cancelled)
            if clip_vision is not None:
                report.figures.extend(alike(clip_vision, frames, cover, found, of_picture))
            shown = sheet(report, *arrays, asked)
            video = side_by_side(Trio(*arrays, asked, height=min(TALLEST, height)), audio, fps)
        lines = "\n".join(text(report))
        say(cls.hidden.unique_id, f"{report.word}; saved as {save(report.to_json(), filename_prefix)}")
        picture_of_it = torch.from_numpy(shown.astype(np.float32) / 255)[None]
        ui_parts = {"text": (lines,), **ui.PreviewImage(picture_of_it, cls=cls).as_dict()}
        return io.NodeOutput(lines, report.to_json(), picture_of_it, video, ui=ui_parts)


def alike(
    clip_vision: ClipVisionModel, frames: torch.Tensor, cover: torch.Tensor, found: Poses, of_picture: Poses
) -> list[Figure]:
    """Likeness of the first person in every fourth frame; nothing where the picture shows nobody, or no frame does."""

    def features(image: torch.Tensor, box: tuple[int, int, int, int]) -> np.ndarray:
        stop_if(cancelled)
        left, top, right, bottom = box
        seen = clip_vision.encode_image(image[None, top:bottom, left:right], crop=False)
        return seen.image_embeds[0].float().cpu().numpy()

    boxes = {frame: box for frame in range(0, len(frames), EVERY) if (box := crop(found, frame))}
    person = crop(of_picture, 0)
    if not boxes or person is None:
        return []
    rows = np.stack([features(frames[frame], box) for frame, box in boxes.items()])
    return likeness(rows, np.array(list(boxes)), features(cover, person), len(frames))


def side_by_side(trio: Trio, audio: Any, fps: float) -> Any:
    """The trio as ComfyUI's video. Raises ValueError where the memory does not hold it, and Cancelled."""
    needed, free = len(trio) * trio.height * trio.width * 12, free_ram()  # three float32 a pixel
    if needed > free:
        raise ValueError(
            f"The side-by-side video takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free. Report on "
            "fewer frames."
        )
    pictures = torch.empty(len(trio), trio.height, trio.width, 3)
    for into, picture in zip(pictures, trio):
        stop_if(cancelled)
        into.copy_(torch.from_numpy(picture).float() / 255)
    rate = Fraction(fps).limit_denominator(1001)
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=pictures, audio=audio, frame_rate=rate))


def save(report: str, prefix: str) -> str:
    """Writes the JSON into the output folder and returns its path there. Raises ValueError in plain words."""
    output = folder_paths.get_output_directory()
    folder, name, counter, _, _ = folder_paths.get_save_image_path(clean_prefix(prefix), output)
    path = free_file(Path(folder), name, counter, ".json")
    try:
        hidden(path).write_text(report, encoding="utf-8")
        hidden(path).replace(path)
    except OSError as err:
        with suppress(OSError):
            hidden(path).unlink(missing_ok=True)
        raise ValueError(
            f"The report could not be written to {path} ({err.strerror}). Free or unlock it, and run again."
        ) from err
    return path.relative_to(output).as_posix()
