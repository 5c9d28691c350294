"""From a box to the pose net's crop, and from its SimCC answer back to points in the picture."""

import numpy as np
import torch
import torch.nn.functional as F

MARGIN = 1.25  # around a box
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _mirrored() -> list[int]:
    """Which of the 133 points a point becomes in a mirror."""
    body = [0, *(j + 1 if j % 2 else j - 1 for j in range(1, 17))]
    feet = [20, 21, 22, 17, 18, 19]
    jaw_to_nose = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    eyes = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    mouth = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    face = [23 + j for j in jaw_to_nose + eyes + mouth]
    return body + feet + face + [*range(112, 133), *range(91, 112)]


MIRRORED = _mirrored()


def regions(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes x1, y1, x2, y2 [n, 4] → centre and size [n, 4] of the region that the net sees, of its aspect, with margin."""
    size = (boxes[:, 2:] - boxes[:, :2]) * MARGIN
    wide = np.maximum(size[:, 0], size[:, 1] * width / height)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, np.stack([wide, wide * height / width], 1)], 1)


def crop(picture: torch.Tensor, region: np.ndarray, width: int, height: int) -> torch.Tensor:
    """The region of a picture [H, W, 3] red green blue 0..1 as [3, height, width], black outside, not yet normalised."""
    rows, columns = picture.shape[:2]
    cx, cy, w, h = region
    x = (torch.arange(width, device=picture.device) - width / 2) * (w / width) + cx
    y = (torch.arange(height, device=picture.device) - height / 2) * (h / height) + cy
    grid = torch.empty((height, width, 2), device=picture.device)
    grid[..., 0] = x * (2 / max(columns - 1, 1)) - 1
    grid[..., 1] = (y * (2 / max(rows - 1, 1)) - 1)[:, None]
    return F.grid_sample(picture.movedim(-1, 0)[None].float(), grid[None], align_corners=True)[0]


def normalised(crops: torch.Tensor) -> torch.Tensor:
    """Crops 0..1, changed in place, as the net was trained on: of 0..255, minus the mean, over the deviation."""
    mean, std = (torch.tensor(v, device=crops.device)[:, None, None] / 255 for v in (MEAN, STD))
    return crops.sub_(mean).div_(std)


def unmirrored(
    answer: tuple[torch.Tensor, torch.Tensor], mirror: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the answers for crops and for their mirror images."""
    return (answer[0] + mirror[0][:, MIRRORED].flip(-1)) / 2, (answer[1] + mirror[1][:, MIRRORED]) / 2


def decode(answer: tuple[torch.Tensor, torch.Tensor], where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SimCC x [n, 133, 2·width] and y [n, 133, 2·height] → points [n, 133, 2] in pixels and scores [n, 133] in 0..1.

    The score is the lower of the two peaks, which are raw outputs and may leave 0..1; a point at or below 0 is unknown.
    """
    peaks, places = zip(*(part.float().max(-1) for part in answer), strict=True)
    score = torch.minimum(*peaks)
    share = torch.stack([place / part.shape[-1] for place, part in zip(places, answer, strict=True)], -1)
    points = where[:, None, :2] + (share.cpu().double().numpy() - 0.5) * where[:, None, 2:]
    scores = score.cpu().numpy()
    points[scores <= 0] = -1
    return points, np.clip(scores, 0, 1)
