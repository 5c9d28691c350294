"""A preview of an estimate: some of its frames side by side, with the poses over them."""

import numpy as np
import torch

from .draw import draw
from .estimate import rgb
from .keypoints import Poses
from .styles import STYLES

SHEET = 8  # frames at most


def contact_sheet(image: torch.Tensor, poses: Poses, frames: int = SHEET) -> torch.Tensor:
    """Up to `frames` frames side by side with the poses over them, [1, height, width, 3] float32 in 0..1.

    `image` [frames, height, width, 3 or 4] in 0..1, `poses` in pixels of any canvas of its shape.
    """
    chosen = np.unique(np.linspace(0, len(image) - 1, min(frames, len(image))).round().astype(int))
    height = min(320, image.shape[1])
    width = max(1, round(height * image.shape[2] / image.shape[1]))
    small = rgb(image[chosen]).movedim(-1, 1).float().cpu()
    small = torch.nn.functional.interpolate(small, (height, width), mode="area").movedim(1, -1)
    some = Poses(poses.points[chosen], poses.scores[chosen], poses.width, poses.height).resized(width, height)
    drawn = torch.from_numpy(draw(some, STYLES["preview"]))
    return torch.cat(list(torch.where(drawn.amax(-1, keepdim=True) > 0, drawn, small * 0.6)), 1)[None]
