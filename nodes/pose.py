"""From a dance to the pose video: estimate, track, align, draw."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..base import environment
from ..machine.memory import free_ram
from ..pose import interchange, smooth
from ..pose.align import align
from ..pose.augment import augment
from ..pose.contact_sheet import contact_sheet
from ..pose.detect import given_boxes
from ..pose.draw import draw
from ..pose.estimate import MISSING, NO_PERSON, Settings, estimate, filled
from ..pose.keypoints import Poses
from ..pose.remarks import remarks
from ..pose.styles import STYLES
from ..pose.track import track
from ..services import pose_nets
from ..services.node import Node
from ..services.pose_nets import AUTO, DETECTORS, POSE_NETS
from ..services.progress import NodeProgress, cancelled, interruptible, say

CATEGORY = "SteadyDancer/pose"
PoseKeypoint = io.Custom("POSE_KEYPOINT")
OVERLAYS = 4  # aligned poses that are shown over the picture: large enough to judge them
TORCH, ONNXRUNTIME = "torch", "onnxruntime on the CPU"
FLAGS = {"detect_body": "DWPOSE_DETECT_BODY", "detect_hand": "DWPOSE_DETECT_HAND", "detect_face": "DWPOSE_DETECT_FACE"}
RESOLUTION = "DWPOSE_RESOLUTION"


def read(keypoints: list | dict | str) -> Poses:
    """The clip in a POSE_KEYPOINT value. Raises ValueError in plain words, and ComfyUI's interrupt after Cancel."""
    with interruptible():
        return interchange.read(keypoints, cancelled)


def require_room(poses: Poses) -> None:
    """Raises ValueError where the pictures of a clip are more than the memory holds."""
    needed, free = len(poses.points) * poses.height * poses.width * 12, free_ram()  # three float32 a pixel
    if needed > free:
        raise ValueError(
            f"{len(poses.points):,} pictures of {poses.width}×{poses.height} take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of memory are free. Use fewer frames, or poses of a smaller picture."
        )


def _flag_input(name: str, what: str) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=[AUTO, "yes", "no"],
        default=AUTO,
        tooltip=f"Keep the {what}. auto: {FLAGS[name]} if it is set, else yes.",
        advanced=True,
    )


def net_inputs() -> list[io.Input]:
    """Which nets read the poses, and where they run: the same in every node that reads some."""
    return [
        io.Combo.Input(
            "detector",
            options=pose_nets.choices(DETECTORS),
            tooltip="auto: yolox_l.onnx, fetched if it is missing. Or a YOLOX s, m, l file in models/detection.",
            advanced=True,
        ),
        io.Combo.Input(
            "pose_model",
            options=pose_nets.choices(POSE_NETS),
            tooltip="auto: dw-ll_ucoco_384.onnx, fetched if it is missing. Or a DWPose or RTMW file in "
            "models/detection: .onnx, .pth or .safetensors.",
            advanced=True,
        ),
        io.Combo.Input(
            "runtime",
            options=[TORCH, ONNXRUNTIME],
            tooltip="torch runs on your GPU. Without one, an installed onnxruntime is faster.",
            advanced=True,
        ),
    ]


class SteadyDancerPoseEstimator(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerPoseEstimator",
            display_name="DWPose Estimator (video)",
            category=CATEGORY,
            description="Finds people and their 133 body, hand and face points in a picture or video.",
            search_aliases=["dwpose", "openpose", "pose detection", "keypoints", "preprocessor", "rtmw"],
            inputs=[
                io.Image.Input("image", tooltip="One picture, or the frames of a video."),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Where the people are, from another detector, instead of YOLOX.",
                ),
                io.Int.Input(
                    "max_people",
                    default=1,
                    min=0,
                    max=32,
                    tooltip="How many people, the most prominent first. 0 is all.",
                ),
                io.Int.Input(
                    "detect_every",
                    default=5,
                    min=1,
                    max=60,
                    tooltip="How often to look for people: 5 is every fifth frame. In between, their boxes are interpolated. "
                    "Use 1 for very quick moves.",
                ),
                io.Float.Input(
                    "person_threshold",
                    default=0.5,
                    min=0.05,
                    max=0.95,
                    step=0.05,
                    tooltip="How confident the detector must be that it sees a person.",
                    advanced=True,
                ),
                io.Float.Input(
                    "keypoint_threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Points below this confidence are hidden from other packages' nodes. Ours still see them.",
                    advanced=True,
                ),
                _flag_input("detect_body", "body and feet"),
                _flag_input("detect_hand", "hands"),
                _flag_input("detect_face", "face"),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Short side in pixels of the canvas that the points are given for. 0: DWPOSE_RESOLUTION if it is "
                    "set, else the picture's own size. The estimate itself always sees the whole picture.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "flip_test",
                    default=False,
                    tooltip="Average with the mirror image: a little more exact, twice the time.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "no_person",
                    options=list(NO_PERSON),
                    tooltip="Where nobody is found: nothing, or look at the whole frame as if it were one person.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "missing_frames",
                    options=list(MISSING),
                    default="interpolate",
                    tooltip="A person lost for some frames: empty, the previous pose held, or interpolated.",
                    advanced=True,
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="How many pictures at once. 0: as many as memory allows; fewer when it runs out.",
                    advanced=True,
                ),
                *net_inputs(),
            ],
            outputs=[PoseKeypoint.Output("keypoints", display_name="keypoints")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> list[str]:
        return [environment.text(name) for name in (*FLAGS.values(), RESOLUTION)]

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        max_people: int,
        detect_every: int,
        person_threshold: float,
        keypoint_threshold: float,
        detect_body: str,
        detect_hand: str,
        detect_face: str,
        resolution: Any,
        flip_test: bool,
        no_person: str,
        missing_frames: str,
        batch_size: int,
        detector: str,
        pose_model: str,
        runtime: str,
        bboxes: Any = None,
    ) -> io.NodeOutput:
        if not len(image):
            raise ValueError(
                "There is no picture to look at: the batch of images is empty. Connect at least one picture."
            )
        shown = {
            name: _flag(name, value) for name, value in zip(FLAGS, (detect_body, detect_hand, detect_face), strict=True)
        }
        settings = Settings(
            body=shown["detect_body"],
            hands=shown["detect_hand"],
            face=shown["detect_face"],
            person_threshold=person_threshold,
            detect_every=detect_every,
            max_people=max_people,
            flip_test=flip_test,
            no_person=no_person,
        )
        boxes = None if bboxes is None else given_boxes(bboxes, len(image))
        detector_file = pose_nets.path_of(detector, "yolox-l") if boxes is None else None
        pose_file = pose_nets.path_of(pose_model, "dw-ll-ucoco-384")
        finder, net = pose_nets.ready(detector_file, pose_file, batch_size, runtime == ONNXRUNTIME)
        progress = NodeProgress(cls.hidden.unique_id)
        with interruptible():
            poses = estimate(image, finder, net, settings, boxes, progress, cancelled)
        height, width = image.shape[1:3]
        side = resolution or int(environment.number(RESOLUTION, 0))
        if side:
            poses = poses.resized(*(round(v * side / min(width, height)) for v in (width, height)))
        frames = int(poses.present.any(1).sum())
        poses = filled(poses, missing_frames)
        say(cls.hidden.unique_id, f"{people(poses)}; somebody in {frames} of {len(image)} frames")
        sheet = contact_sheet(image, poses.resized(width, height))
        return io.NodeOutput(interchange.write(poses, keypoint_threshold), ui=ui.PreviewImage(sheet, cls=cls))


def people(poses: Poses) -> str:
    """How many there are, in words."""
    count = poses.points.shape[1]
    return f"{count or 'no'} {'person' if count == 1 else 'people'}"


def _flag(name: str, value: str) -> bool:
    return environment.flag(FLAGS[name], True) if value == AUTO else value == "yes"


class SteadyDancerPoseTrack(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerPoseTrack",
            display_name="Track and Smooth Pose",
            category=CATEGORY,
            description="Keeps people apart from frame to frame, fills short gaps and smooths jitter.",
            search_aliases=["tracking", "jitter", "stabilise", "temporal filter"],
            inputs=[
                PoseKeypoint.Input("keypoints", tooltip="Poses of a video, from any estimator."),
                io.Int.Input(
                    "max_people", default=0, min=0, max=32, tooltip="Keep the most prominent people only. 0 is all."
                ),
                io.Int.Input(
                    "fill_gaps",
                    default=5,
                    min=0,
                    max=60,
                    tooltip="The longest gap, in frames, that is filled when a point is lost.",
                ),
                io.Int.Input(
                    "smoothing",
                    default=0,
                    min=0,
                    max=31,
                    tooltip="Frames to smooth over, 0 is off; 7 is mild. Without lag and not over jumps, yet quick hands "
                    "lose some of their snap.",
                ),
            ],
            outputs=[PoseKeypoint.Output("keypoints", display_name="keypoints")],
        )

    @classmethod
    def execute(cls, keypoints: Any, max_people: int, fill_gaps: int, smoothing: int) -> io.NodeOutput:
        poses = track(read(keypoints), max_people)
        poses = smooth.fill_gaps(poses, fill_gaps)
        return io.NodeOutput(interchange.write(smooth.smooth(poses, smoothing) if smoothing > 2 else poses))


class SteadyDancerPoseAlign(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerPoseAlign",
            display_name="Align Pose to Reference",
            category=CATEGORY,
            description="Gives the dancer's poses the body of the person in the picture, so that the person keeps their "
            "proportions. The negative is the same dance by a body that changes in every frame, for pose guidance.",
            search_aliases=["retarget", "proportions", "pose transfer", "steadydancer"],
            inputs=[
                PoseKeypoint.Input("driving", tooltip="Poses of the dance video."),
                PoseKeypoint.Input("reference", tooltip="The pose of the person in the picture."),
                io.Int.Input(
                    "width",
                    default=576,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip="Width of the video; from Fit Reference Image.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip="Height of the video; from Fit Reference Image.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["robust", "official"],
                    tooltip="robust measures clearly seen joints over several frames and copes with half bodies. official is the "
                    "authors' script: person 0, frame 0, every joint.",
                ),
                io.Int.Input(
                    "measured_frames",
                    default=5,
                    min=1,
                    max=100,
                    tooltip="Only for robust: in how many frames the dancer's body is measured. The first ones that clearly show it are taken.",
                    advanced=True,
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the negative poses' changes.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture, best from Fit Reference Image: the preview shows the aligned poses over it.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output("positive", display_name="positive"),
                PoseKeypoint.Output("negative", display_name="negative"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        driving: Any,
        reference: Any,
        width: int,
        height: int,
        mode: str,
        measured_frames: int,
        seed: int,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        dance, person = read(driving), read(reference)
        poses = align(dance, person, width, height, mode, measured_frames)
        say(
            cls.hidden.unique_id,
            " ".join(remarks(dance, person, poses)) or f"{len(poses.points)} frames fit the picture",
        )
        picture = torch.zeros(1, height, width, 3) if image is None else image[:1]
        sheet = contact_sheet(picture.expand(len(poses.points), -1, -1, -1), poses, OVERLAYS)
        values = interchange.write(poses), interchange.write(augment(poses, seed))
        return io.NodeOutput(*values, ui=ui.PreviewImage(sheet, cls=cls))


class SteadyDancerPoseDraw(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerPoseDraw",
            display_name="Draw Pose",
            category=CATEGORY,
            description="Draws poses as pictures, the way the model that takes them was trained.",
            search_aliases=["openpose", "skeleton", "pose video", "controlnet"],
            inputs=[
                PoseKeypoint.Input("keypoints", tooltip="Poses to draw; the pictures have their canvas size."),
                io.Combo.Input(
                    "style",
                    options=[name for name in STYLES if name != "preview"],
                    tooltip="SteadyDancer: thin lines, red and blue exchanged, no face. DWPose and controlnet_aux: for "
                    "ControlNet-like models.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How confident a point must be to be drawn. 0 takes the style's own (0.35 for SteadyDancer, else 0.3).",
                    advanced=True,
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, keypoints: Any, style: str, threshold: float) -> io.NodeOutput:
        chosen = STYLES[style] if not threshold else replace(STYLES[style], threshold=threshold)
        progress = NodeProgress(cls.hidden.unique_id)
        poses = read(keypoints)
        require_room(poses)
        if not poses.present.any():
            say(cls.hidden.unique_id, "There is nobody in these poses: the pictures are black.")
        with interruptible():
            images = draw(poses, chosen, progress=progress, cancelled=cancelled)
        return io.NodeOutput(torch.from_numpy(images))
