"""Nets that really find 133 coloured dots, with the inputs and outputs of YOLOX and DWPose, and the pictures for them.

They need the right channel order: every dot is reddish, and a blue decoy lies beside the person.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

COLORS = np.array([(r, g, b) for b in (0, 85, 170, 255) for g in range(0, 256, 51) for r in range(105, 256, 30)][:133])
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


class DotsDetector(torch.nn.Module):
    """[n, 3, 640, 640] blue green red 0..255 → [n, 8400, 85]: one sure person around what is reddish, if anything is."""

    def forward(self, pictures):
        red = (pictures[:, 2] > 85) & ((pictures - 114).abs().amax(1) > 3)
        columns, rows = red.any(1).float(), red.any(2).float()
        place = torch.arange(640.0, device=pictures.device)
        x1, x2 = ((1 - v) * 1e4 + v * place for v in (columns, columns))
        low_x, high_x = x1.amin(1), (columns * place).amax(1)
        low_y, high_y = ((1 - rows) * 1e4 + rows * place).amin(1), (rows * place).amax(1)
        found = (high_x > low_x).float()
        center_x, center_y = (low_x + high_x + 1) / 2, (low_y + high_y + 1) / 2
        width, height = (high_x - low_x + 1).clamp(min=1), (high_y - low_y + 1).clamp(min=1)
        row = torch.stack(
            [center_x / 8, center_y / 8, (width / 8).log(), (height / 8).log(), found * 0.99, found * 0.99], 1
        )
        row = F.pad(row, (0, 79))[:, None]
        return torch.cat([row, torch.zeros_like(row).expand(-1, 8399, -1)], 1)


class DotsPose(torch.nn.Module):
    """[n, 3, 384, 288] normalised red green blue → SimCC [n, 133, 576] and [n, 133, 768], a peak where a dot is.

    With step 2 or 4 only every second or fourth pixel is looked at: much faster, less exact.
    """

    def __init__(self, step: int = 1):
        super().__init__()
        self.step = step
        self.colors = torch.nn.Parameter(torch.tensor(COLORS, dtype=torch.float32))
        self.register_buffer("mean", MEAN[:, None, None])
        self.register_buffer("std", STD[:, None, None])

    def forward(self, crops):
        picture = (crops * self.std + self.mean)[..., :: self.step, :: self.step]
        weight = (2 * self.colors)[:, :, None, None]
        distance = (
            (picture**2).sum(1, keepdim=True) - F.conv2d(picture, weight) + (self.colors**2).sum(1)[:, None, None]
        )
        heat = torch.exp(-distance.clamp(min=0) / 150)
        size = {1: 7, 2: 3, 4: 3}[self.step]
        for _ in range(2):  # twice, for a peak instead of a plateau
            heat = F.avg_pool2d(heat, (1, size), 1, (0, size // 2))
            heat = F.avg_pool2d(heat, (size, 1), 1, (size // 2, 0))
        heat = heat * 20
        bins = 2 * self.step
        return heat.amax(2).repeat_interleave(bins, 2), heat.amax(3).repeat_interleave(bins, 2)


def export(folder: Path, step: int = 2) -> tuple[Path, Path]:
    """Both nets as .onnx files under the published names: detector, pose net."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "yolox_l.onnx", folder / "dw-ll_ucoco_384.onnx"
    for net, shape, path in (
        (DotsDetector(), (1, 3, 640, 640), files[0]),
        (DotsPose(step), (1, 3, 384, 288), files[1]),
    ):
        torch.onnx.export(
            net.eval(),
            (torch.rand(shape),),
            path,
            dynamo=False,
            input_names=["input"],
            dynamic_axes={"input": {0: "n"}},
        )
    return files


def person(
    width: int, height: int, seed: int = 0, box: tuple[float, float, float, float] = (0.2, 0.1, 0.8, 0.9)
) -> np.ndarray:
    """133 points [133, 2] in pixels, spread over a box (shares of the picture), no two closer than a dot."""
    random = np.random.default_rng(seed)
    x1, y1, x2, y2 = box
    cells = random.permutation(10 * 14)[:133]
    spread = (np.stack([cells % 10, cells // 10], -1) + 0.5) / [10, 14]
    return (np.array([x1, y1]) + spread * [x2 - x1, y2 - y1]) * [width, height]


def picture(points: np.ndarray, width: int, height: int, radius: float, decoy: bool = True) -> np.ndarray:
    """The dots on black, float32 [height, width, 3] red green blue 0..1, with soft edges."""
    image = np.zeros((height, width, 3), np.float32)
    if decoy:
        image[: height // 20, : width // 20] = (0, 0, 1)
    reach = int(radius) + 2
    for (x, y), color in zip(points, COLORS, strict=True):
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        right, bottom = int(x) + reach + 1, int(y) + reach + 1
        part = image[top:bottom, left:right]
        if part.size:
            yy, xx = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
            part[(xx - x) ** 2 + (yy - y) ** 2 <= radius**2] = color / 255
    return image
