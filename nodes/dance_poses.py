"""The whole way from a dance to the pose videos in one node, for those who change nothing on it."""

import torch
from comfy_api.latest import io, ui

from ..pose import interchange, smooth
from ..pose.align import align
from ..pose.augment import augment
from ..pose.contact_sheet import contact_sheet
from ..pose.draw import draw
from ..pose.estimate import Net, Settings, estimate, filled
from ..pose.keypoints import Poses
from ..pose.remarks import remarks
from ..pose.styles import STYLES
from ..pose.track import track
from ..services import pose_nets
from ..services.node import Node
from ..services.progress import NodeProgress, cancelled, executing, interruptible, say
from .pose import CATEGORY, ONNXRUNTIME, OVERLAYS, PoseKeypoint, net_inputs, require_room

DETECT_EVERY, FILL_GAPS = 5, 5  # frames, as the four nodes have them


class SteadyDancerDancePoses(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerDancePoses",
            display_name="Dance Poses (all in one)",
            category=CATEGORY,
            description="Reads the poses of a dance and of a picture, fits them to the person in it, and draws them: what DWPose "
            "Estimator, Track and Smooth Pose, Align Pose to Reference and Draw Pose do with their defaults.",
            search_aliases=["dance", "pose video", "dwpose", "retarget", "motion transfer"],
            inputs=[
                io.Image.Input("dance", tooltip="The frames of the dance, from Driving Video."),
                io.Image.Input("image", tooltip="The picture of the person, from Fit Reference Image."),
                io.Int.Input("max_people", default=1, min=0, max=32, tooltip="How many people dance. 0 is all."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the negative poses' changes.",
                ),
                io.Int.Input(
                    "smoothing",
                    default=0,
                    min=0,
                    max=31,
                    tooltip="Frames to smooth over, 0 is off; 7 is mild.",
                    advanced=True,
                ),
                *net_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="pose_video"),
                io.Image.Output(display_name="negative_pose_video"),
                PoseKeypoint.Output("keypoints", display_name="keypoints", tooltip="The fitted poses."),
            ],
        )

    @classmethod
    def execute(
        cls,
        dance: torch.Tensor,
        image: torch.Tensor,
        max_people: int,
        seed: int,
        smoothing: int,
        detector: str,
        pose_model: str,
        runtime: str,
    ) -> io.NodeOutput:
        node_id = executing().node_id
        height, width = image.shape[1:3]
        files = pose_nets.path_of(detector, "yolox-l"), pose_nets.path_of(pose_model, "dw-ll-ucoco-384")
        nets = pose_nets.ready(*files, 0, runtime == ONNXRUNTIME)
        person = found(image[:1], nets, max_people, node_id)
        poses = smooth.fill_gaps(track(found(dance, nets, max_people, node_id), max_people), FILL_GAPS)
        dancer = smooth.smooth(poses, smoothing) if smoothing > 2 else poses
        fitted = align(dancer, person, width, height)
        said = " ".join(remarks(dancer, person, fitted)) or f"{len(fitted.points)} frames fit the picture"
        require_room(fitted)
        progress = NodeProgress(node_id)
        with interruptible():
            drawn, changed = (
                torch.from_numpy(draw(poses, STYLES["SteadyDancer"], progress=progress, cancelled=cancelled))
                for poses in (fitted, augment(fitted, seed))
            )
        say(node_id, said)
        sheet = contact_sheet(image[:1].expand(len(fitted.points), -1, -1, -1), fitted, OVERLAYS)
        return io.NodeOutput(drawn, changed, interchange.write(fitted), ui=ui.PreviewImage(sheet, cls=cls))


def found(images: torch.Tensor, nets: tuple[Net | None, Net], max_people: int, node_id: str) -> Poses:
    """The people in a batch of pictures, short absences filled."""
    settings = Settings(max_people=max_people, detect_every=DETECT_EVERY)
    with interruptible():
        poses = estimate(images, *nets, settings, progress=NodeProgress(node_id), cancelled=cancelled)
    return filled(poses, "interpolate")
