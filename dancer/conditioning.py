"""Sizes, pictures and latents: what SteadyDancer is conditioned on."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from comfy.sd import VAE

SIZE_STEP = 16
TURBO_STRETCH = "stretch (TurboDiffusion)"
FRAME_STEP = 4


def fitted_size(width: int, height: int, area: int, nearest: bool = False) -> tuple[int, int]:
    """Width and height, in pixels, of about `area` pixels at the aspect of width×height, in multiples of 16.

    Rounded down, as SteadyDancer's code does: 864×1184 at 1024·576 gives 656×896. TurboDiffusion's takes the `nearest`.
    """
    aspect = height / width
    fitted = (math.sqrt(area / aspect), math.sqrt(area * aspect))
    steps = (round(side / SIZE_STEP) if nearest else int(side // SIZE_STEP) for side in fitted)
    width, height = (max(SIZE_STEP, count * SIZE_STEP) for count in steps)
    return width, height


def same_aspect(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether the two sizes differ in aspect by no more than rounding to multiples of 16 explains."""
    scale = math.sqrt(new_width * new_height / (width * height))
    return abs(width * scale - new_width) <= SIZE_STEP and abs(height * scale - new_height) <= SIZE_STEP


def resize(images: torch.Tensor, width: int, height: int, fit: str = "crop") -> torch.Tensor:
    """Images [N, H, W, C] with values 0..1 to RGB [N, height, width, 3], bicubic.

    `fit` says what becomes of another aspect: "crop" cuts the centre out, "pad" adds black bars, "stretch" squashes,
    without antialiasing, as SteadyDancer's code does, and TURBO_STRETCH as TurboDiffusion's, bilinear with antialiasing.
    Alpha is dropped; grey becomes RGB.
    """
    images = images[..., :3].expand(-1, -1, -1, 3).movedim(-1, 1).float()
    h, w = images.shape[-2:]
    if (w, h) == (width, height):
        return images.movedim(1, -1)
    if fit == TURBO_STRETCH:
        return F.interpolate(images, (height, width), mode="bilinear", antialias=True).movedim(1, -1)
    if fit == "stretch":
        return F.interpolate(images, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)
    choose = max if fit == "crop" else min
    scale = choose(width / w, height / h)
    inner_w, inner_h = max(1, round(w * scale)), max(1, round(h * scale))
    images = F.interpolate(images, (inner_h, inner_w), mode="bicubic", antialias=True).clamp(0, 1)
    left, top = (inner_w - width) // 2, (inner_h - height) // 2  # negative where bars are added
    images = F.pad(images, (-left, width - inner_w + left, -top, height - inner_h + top))
    return images.movedim(1, -1)


def match_length(frames: torch.Tensor, length: int) -> torch.Tensor:
    """Frames [N, ...] cut to `length`, or held on the last one."""
    missing = length - frames.shape[0]
    if missing <= 0:
        return frames[:length]
    return torch.cat((frames, frames[-1:].expand(missing, *frames.shape[1:])))


def image_condition(vae: "VAE", picture: torch.Tensor, length: int) -> dict:
    """What Wan I2V is conditioned on: the picture as first frame, then grey.

    `picture` [1, H, W, 3] of the video's size. Returns the raw latent [1, 16, T, h, w] and ComfyUI's mask [1, 1, T, h, w],
    0 where the latent is given and 1 where it is to be made.
    """
    frames = torch.full((length, *picture.shape[1:]), 0.5)
    frames[:1] = picture
    latent = vae.encode(frames)
    mask = torch.ones_like(latent[:, :1])
    mask[:, :, :1] = 0.0
    return {"concat_latent_image": latent, "concat_mask": mask}
