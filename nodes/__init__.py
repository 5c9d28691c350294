"""What the user sees: schemas and wiring, one file a family. Algorithms live in the other rooms."""

import logging

from comfy_api.latest import ComfyExtension, io

from ..base.reason import reason
from ..dancer.model import register
from ..machine import gpus
from ..services import folders, health, r2_watch
from ..services.examples import place_example_inputs
from .conditioning import SteadyDancerClipVision, SteadyDancerFitImage, SteadyDancerToVideo
from .convert import SteadyDancerConvertModel
from .dance_poses import SteadyDancerDancePoses
from .dance_report import SteadyDancerDanceReport
from .driving_video import SteadyDancerDrivingVideo
from .loaders import SteadyDancerCatalogLoader, SteadyDancerDownload, SteadyDancerLoader
from .planner import SteadyDancerVRAMPlanner, SteadyDancerVRAMReport
from .pose import SteadyDancerPoseAlign, SteadyDancerPoseDraw, SteadyDancerPoseEstimator, SteadyDancerPoseTrack
from .pose_file import SteadyDancerPoseLoad, SteadyDancerPoseSave
from .r2 import SteadyDancerR2SaveImages, SteadyDancerR2SaveVideo, SteadyDancerR2Upload
from .sampling import SteadyDancerFlowUniPC, SteadyDancerGuider, SteadyDancerSchedule
from .selector import SteadyDancerVariantSelector
from .turbo_loader import SteadyDancerTurboLoader
from .turbo_sampling import (
    SteadyDancerRCMMerge,
    SteadyDancerRCMSchedule,
    SteadyDancerSparseAttention,
    SteadyDancerTurboSampler,
)


class SteadyDancerExtension(ComfyExtension):
    """The package's nodes, and what ComfyUI runs once for them."""

    async def on_load(self) -> None:
        """What is done once a process. ComfyUI drops every node where this fails, so nothing here may."""
        for step, loss in (
            (register, "SteadyDancer files load without the pose"),
            (folders.register, "GGUF files and pose networks are not listed"),
            (lambda: gpus.use(folders.state(gpus.FILE)), "your own table of GPUs is not read"),
            (place_example_inputs, "the examples' inputs were not copied into the input folder"),
            (r2_watch.start, "the output folder is not watched for R2"),
            (health.start, "/steadydancer/health does not answer"),
        ):
            try:
                step()
            except Exception as err:
                logging.warning("SteadyDancer: %s. %s", loss, reason(err))

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of the menu."""
        return [
            SteadyDancerLoader,
            SteadyDancerTurboLoader,
            SteadyDancerCatalogLoader,
            SteadyDancerDownload,
            SteadyDancerConvertModel,
            SteadyDancerVariantSelector,
            SteadyDancerVRAMPlanner,
            SteadyDancerVRAMReport,
            SteadyDancerFitImage,
            SteadyDancerClipVision,
            SteadyDancerToVideo,
            SteadyDancerDrivingVideo,
            SteadyDancerDancePoses,
            SteadyDancerPoseEstimator,
            SteadyDancerPoseTrack,
            SteadyDancerPoseAlign,
            SteadyDancerPoseDraw,
            SteadyDancerPoseSave,
            SteadyDancerPoseLoad,
            SteadyDancerGuider,
            SteadyDancerSchedule,
            SteadyDancerFlowUniPC,
            SteadyDancerRCMSchedule,
            SteadyDancerTurboSampler,
            SteadyDancerSparseAttention,
            SteadyDancerRCMMerge,
            SteadyDancerDanceReport,
            SteadyDancerR2SaveVideo,
            SteadyDancerR2SaveImages,
            SteadyDancerR2Upload,
        ]
