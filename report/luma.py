"""Brightness of pictures, and how alike two of them are."""

import numpy as np

SHORT_SIDE = 256  # pixels about which SSIM means what people see, as its authors' own code shrinks pictures
WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
GAUSSIAN = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2)).astype(np.float32)
GAUSSIAN /= GAUSSIAN.sum()
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(picture: np.ndarray) -> np.ndarray:
    """[height, width, 3] 0..1 as levels 0..255 float32, shrunk by a whole number so that the short side is about 256."""
    levels = picture[..., :3] @ (WEIGHTS * np.float32(255))
    step = shrink(*levels.shape)
    height, width = (side // step * step for side in levels.shape)
    return levels[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))


def shrink(height: int, width: int) -> int:
    """By how much `luma` shrinks pictures of that size."""
    return max(1, round(min(height, width) / SHORT_SIDE))


class Blurred:
    """A luma picture with the local means that SSIM needs, so that a neighbour does not compute them again."""

    def __init__(self, levels: np.ndarray) -> None:
        self.levels, self.mean = levels, blur(levels)
        self.variance = blur(levels * levels) - self.mean**2


def blur(levels: np.ndarray) -> np.ndarray:
    """Gaussian of 11, sigma 1.5, where it fits into the picture: [height - 10, width - 10]. Smaller pictures stay as they are."""
    if min(levels.shape) < len(GAUSSIAN):
        return levels
    height, width = (side - len(GAUSSIAN) + 1 for side in levels.shape)
    rows = sum(weight * levels[i : i + height] for i, weight in enumerate(GAUSSIAN))
    return sum(weight * rows[:, i : i + width] for i, weight in enumerate(GAUSSIAN))


def ssim(a: Blurred, b: Blurred) -> float:
    """Structural similarity of Wang, Bovik, Sheikh and Simoncelli (2004), mean over the picture, -1 to 1."""
    product = a.mean * b.mean
    covariance = blur(a.levels * b.levels) - product
    alike = (2 * product + C1) * (2 * covariance + C2)
    return float((alike / ((a.mean**2 + b.mean**2 + C1) * (a.variance + b.variance + C2))).mean())
