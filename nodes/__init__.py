"""What the user sees: schemas and wiring, one file a family. Algorithms live in the other rooms."""

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from ..dancer.model import register
from ..machine import gpus
from ..services import folders
from . import r2_watch
from .conditioning import SteadyDancerClipVision, SteadyDancerFitImage, SteadyDancerToVideo
from .driving_video import SteadyDancerDrivingVideo
from .examples import place_example_inputs
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
    async def on_load(self) -> None:
        register()
        folders.register()
        gpus.use(Path(folder_paths.get_user_directory()))
        place_example_inputs()
        r2_watch.start()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            SteadyDancerLoader,
            SteadyDancerTurboLoader,
            SteadyDancerCatalogLoader,
            SteadyDancerDownload,
            SteadyDancerVariantSelector,
            SteadyDancerVRAMPlanner,
            SteadyDancerVRAMReport,
            SteadyDancerFitImage,
            SteadyDancerClipVision,
            SteadyDancerToVideo,
            SteadyDancerDrivingVideo,
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
            SteadyDancerR2SaveVideo,
            SteadyDancerR2SaveImages,
            SteadyDancerR2Upload,
        ]
