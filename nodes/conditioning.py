"""From a picture and pose frames to what the sampler takes."""

from typing import Any

import comfy.model_management
import node_helpers
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import VAE
from comfy_api.latest import io

from ..base.reason import reason
from ..dancer.conditioning import (
    FRAME_STEP,
    SIZE_STEP,
    TURBO_STRETCH,
    fitted_size,
    image_condition,
    match_length,
    resize,
    same_aspect,
)
from ..services.node import Node
from ..services.progress import say

AREAS = {"480p (832×480)": 832 * 480, "576p (1024×576)": 1024 * 576, "720p (1280×720)": 1280 * 720}
CUSTOM = "custom"
MAX_SIDE = 4096
MAX_FRAMES = 4096


class SteadyDancerFitImage(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerFitImage",
            display_name="Fit Reference Image",
            category="SteadyDancer",
            description="Sizes the picture for the model: about the chosen area at the picture's own aspect, in multiples "
            "of 16. Take width and height for the rest of the graph from here.",
            search_aliases=["resize", "reference image", "aspect"],
            inputs=[
                io.Image.Input("image", tooltip="The picture of the person who will dance."),
                io.Combo.Input(
                    "area",
                    options=[*AREAS, CUSTOM],
                    default="576p (1024×576)",
                    tooltip="How many pixels a frame has. The shape stays the picture's own. More pixels take more time "
                    "and memory. 'custom' uses width and height below.",
                ),
                io.Int.Input(
                    "width",
                    display_name="custom width",
                    default=576,
                    min=SIZE_STEP,
                    max=MAX_SIDE,
                    step=SIZE_STEP,
                    tooltip="Only for area 'custom': width in pixels, a multiple of 16.",
                ),
                io.Int.Input(
                    "height",
                    display_name="custom height",
                    default=1024,
                    min=SIZE_STEP,
                    max=MAX_SIDE,
                    step=SIZE_STEP,
                    tooltip="Only for area 'custom': height in pixels, a multiple of 16.",
                ),
                io.Combo.Input(
                    "fit",
                    options=["crop", "pad", "stretch", TURBO_STRETCH, "off"],
                    default="crop",
                    tooltip="Where the shapes differ, which only 'custom' can cause: crop cuts the edges, pad adds black "
                    "bars, stretch squashes the picture as SteadyDancer's code does, off refuses. stretch (TurboDiffusion) "
                    "sizes and squashes every picture as TurboDiffusion's code does.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Int.Output(display_name="width"),
                io.Int.Output(display_name="height"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, area: str, width: int, height: int, fit: str) -> io.NodeOutput:
        picture_height, picture_width = image.shape[1:3]
        said = (
            "" if area == CUSTOM or (width, height) == (576, 1024) else f"; width and height count only with {CUSTOM}"
        )
        if area != CUSTOM:
            width, height = fitted_size(picture_width, picture_height, AREAS[area], nearest=fit == TURBO_STRETCH)
        require_size(width, height)
        if not same_aspect(picture_width, picture_height, width, height):
            if fit == "off":
                raise ValueError(
                    f"The picture is {picture_width}×{picture_height} and does not have the shape of {width}×{height}. "
                    "Choose what to do with it in 'fit' (crop, pad or stretch), or an area that keeps its shape."
                )
            done = {"crop": "cropped", "pad": "padded with black"}.get(fit, "stretched")
            said = f", {done}{said}"
        say(cls.hidden.unique_id, f"{picture_width}×{picture_height} → {width}×{height}{said}")
        return io.NodeOutput(resize(image, width, height, "crop" if fit == "off" else fit), width, height)


class SteadyDancerClipVision(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerClipVision",
            display_name="SteadyDancer CLIP Vision",
            category="SteadyDancer",
            description="Shows the picture and the first pose to CLIP Vision, sized as the model's authors do.",
            search_aliases=["clip vision encode", "image encoder"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="CLIP-ViT-H, such as clip_vision_h.safetensors."),
                io.Image.Input("image", tooltip="The picture of the person, as it was loaded."),
                io.Image.Input("pose_video", tooltip="The drawn poses. The first is taken."),
            ],
            outputs=[
                io.ClipVisionOutput.Output(display_name="clip_vision_output"),
                io.ClipVisionOutput.Output(display_name="pose_clip_vision_output"),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: ClipVisionModel, image: torch.Tensor, pose_video: torch.Tensor) -> io.NodeOutput:
        size = clip_vision.image_size

        def see(images: torch.Tensor, name: str) -> Any:
            if images.shape[0] == 0:
                raise ValueError(f"The {name} is an empty batch. Connect one with at least one image.")
            # The whole picture, squashed without antialiasing: core's node smooths, and thin limbs lose a fifth of their brightness.
            return clip_vision.encode_image(resize(images[:1], size, size, "stretch"), crop=False)

        return io.NodeOutput(see(image, "picture"), see(pose_video, "pose video"))


class SteadyDancerToVideo(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerToVideo",
            display_name="SteadyDancer Conditioning",
            category="SteadyDancer",
            description="Joins text, picture and pose video into what the sampler takes.",
            search_aliases=["pose video", "image to video", "dance"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="The encoded prompt: describe the person, the motion, the face."
                ),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="The picture as CLIP sees it, from SteadyDancer CLIP Vision.",
                ),
                io.ClipVisionOutput.Input(
                    "pose_clip_vision_output",
                    optional=True,
                    tooltip="The first pose as CLIP sees it, from SteadyDancer CLIP Vision.",
                ),
                io.Image.Input("start_image", tooltip="The picture, best from Fit Reference Image."),
                io.Image.Input(
                    "pose_video",
                    tooltip="The drawn poses, one image a frame. A shorter one is held on its last frame, a longer one "
                    "is cut.",
                ),
                io.Image.Input(
                    "negative_pose_video",
                    optional=True,
                    tooltip="The same poses with the body's proportions changed, for pose guidance. Leave it open to do "
                    "without.",
                ),
                io.Int.Input(
                    "width",
                    default=576,
                    min=SIZE_STEP,
                    max=MAX_SIDE,
                    step=SIZE_STEP,
                    tooltip="Width of the video in pixels, a multiple of 16. Take it from Fit Reference Image.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=SIZE_STEP,
                    max=MAX_SIDE,
                    step=SIZE_STEP,
                    tooltip="Height of the video in pixels, a multiple of 16. Take it from Fit Reference Image.",
                ),
                io.Int.Input(
                    "length",
                    default=81,
                    min=1,
                    max=MAX_FRAMES,
                    step=FRAME_STEP,
                    tooltip="Frames of the video: 1, 5, 9 … The model was made for 81, five seconds at 16 frames a "
                    "second. For more, put Wan Context Windows between the model and the guider.",
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=64, tooltip="How many videos to make at once.", advanced=True
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Conditioning.Output(display_name="pose_negative", tooltip="Empty without a negative pose video."),
                io.Latent.Output(display_name="latent", tooltip="Empty latent of the video's size."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, width: int | None, height: int | None, length: int | None) -> bool | str:
        """Refuses a size or length before anything is loaded. What is linked is None, and refused when it is known."""
        try:
            if width is not None and height is not None:
                require_size(width, height)
            if length is not None:
                require_length(length)
        except ValueError as err:
            return reason(err)
        return True

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: VAE,
        start_image: torch.Tensor,
        pose_video: torch.Tensor,
        width: int,
        height: int,
        length: int,
        batch_size: int,
        clip_vision_output: Any = None,
        pose_clip_vision_output: Any = None,
        negative_pose_video: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        require_size(width, height)
        require_length(length)
        wan = vae.latent_channels == 16 and vae.latent_dim == 3 and vae.temporal_compression_decode() == 4
        if not wan or vae.spacial_compression_decode() != 8:
            raise ValueError(
                "The connected VAE is not for Wan 2.1 video, so SteadyDancer cannot read what it encodes. "
                "Load wan_2.1_vae.safetensors."
            )
        if start_image.shape[0] == 0:
            raise ValueError("The start image is an empty batch. Connect a picture.")
        notes = []
        if not same_aspect(start_image.shape[2], start_image.shape[1], width, height):
            notes.append(f"picture cropped from {start_image.shape[2]}×{start_image.shape[1]} to {width}×{height}")

        def encode_pose(frames: torch.Tensor, name: str) -> torch.Tensor:
            if frames.shape[0] == 0:
                raise ValueError(f"The {name} has no frames. Connect one with at least one image.")
            if frames.shape[0] == 1 < length:
                raise ValueError(
                    f"The {name} is a single picture, so nobody would dance. Connect the images of Draw Pose, or of a video "
                    "of drawn poses. For a person who stands still, repeat the picture with Repeat Image Batch."
                )
            if frames.shape[0] < length:
                notes.append(f"{name} has {frames.shape[0]} frames: held on the last one up to {length}")
            elif frames.shape[0] > length and frames is pose_video:
                notes.append(f"the first {length} of {frames.shape[0]} poses")
            return vae.encode(match_length(resize(frames[:length], width, height), length))

        shared = image_condition(vae, resize(start_image[:1], width, height), length)
        shared["pose_video_latent"] = encode_pose(pose_video, "pose video")
        if clip_vision_output is not None:
            shared["clip_vision_output"] = clip_vision_output
        if pose_clip_vision_output is not None:
            shared["pose_clip_vision_output"] = pose_clip_vision_output
        pose_negative = None
        if negative_pose_video is not None:
            pose_negative = node_helpers.conditioning_set_values(
                positive,
                {
                    **shared,
                    "pose_video_latent": encode_pose(negative_pose_video, "negative pose video"),
                    "ref_pose_latent": shared["pose_video_latent"][:, :, :1],
                },
            )
        if notes:
            say(cls.hidden.unique_id, "; ".join(notes))
        latent = torch.zeros(
            [batch_size, *shared["pose_video_latent"].shape[1:]],
            device=comfy.model_management.intermediate_device(),
        )
        return io.NodeOutput(
            node_helpers.conditioning_set_values(positive, shared),
            node_helpers.conditioning_set_values(negative, shared),
            pose_negative,
            {"samples": latent},
        )


def require_size(width: int, height: int) -> None:
    """Raises ValueError, with the nearest size that would do, for one that is no multiple of 16, or out of range."""
    if min(width, height) < SIZE_STEP or max(width, height) > MAX_SIDE:
        raise ValueError(f"The size is {width}×{height}. Use {SIZE_STEP} to {MAX_SIDE} pixels a side.")
    if width % SIZE_STEP or height % SIZE_STEP:
        nearest = [max(SIZE_STEP, round(side / SIZE_STEP) * SIZE_STEP) for side in (width, height)]
        raise ValueError(
            f"The size is {width}×{height}, but the model needs multiples of 16. Use {nearest[0]}×{nearest[1]}."
        )


def require_length(length: int) -> None:
    """Raises ValueError, with the lengths that would do, for one that the VAE cannot pack, or that is out of range."""
    if not 1 <= length <= MAX_FRAMES:
        raise ValueError(f"The length is {length} frames. Use 1 to {MAX_FRAMES}.")
    if (length - 1) % FRAME_STEP:
        shorter = length - (length - 1) % FRAME_STEP
        raise ValueError(
            f"The length is {length} frames, but the VAE packs frames by four after the first. "
            f"Use {shorter} or {shorter + FRAME_STEP}."
        )
