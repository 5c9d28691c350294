"""YOLOX, the person detector in front of DWPose (Z. Ge and others, arXiv 2107.08430), in plain torch."""

from typing import Any

import torch
from torch import nn

from .layers import PAFPN, Conv, DarknetBlock, csp_stages

SIZE = 640
STRIDES = (8, 16, 32)
# By the width of the first convolution: blocks and channels as parts of YOLOX-l's.
SIZES = {24: (0.33, 0.375), 32: (0.33, 0.5), 48: (0.67, 0.75), 64: (1.0, 1.0), 80: (1.33, 1.25)}


class YOLOX(nn.Module):
    """Letterboxed pictures [n, 3, 640, 640], blue green red, 0..255 → rows [n, 8400, 5 + classes].

    A row is x, y, w, h relative to its cell (see `pose/detect.py`), objectness and class scores 0..1.
    """

    bn_eps = 1e-3

    backbone: Any  # nested ModuleDicts
    neck: Any  # a PAFPN with three convolutions behind it

    def __init__(self, deepen: float, widen: float, classes: int) -> None:
        super().__init__()
        widths = [int(64 * 2**i * widen) for i in range(5)]
        blocks = [max(round(count * deepen), 1) for count in (3, 9, 9, 3)]
        self.backbone = nn.ModuleDict(
            {
                "stem": nn.ModuleDict({"conv": Conv(12, widths[0], 3)}),
                **csp_stages(widths, blocks, DarknetBlock, last_residual=False, attention=False),
            }
        )
        self.neck = PAFPN(widths[2:], blocks[0], DarknetBlock)
        self.neck.out_convs = nn.ModuleList(Conv(width, widths[2]) for width in widths[2:])
        self.bbox_head = Head(widths[2], classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = pictures.to(self.backbone["stem"]["conv"].weight.dtype)
        corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
        x = self.backbone["stem"]["conv"](torch.cat(corners, 1))
        features = []
        for name in ("stage1", "stage2", "stage3", "stage4"):
            x = self.backbone[name](x)
            features.append(x)
        mixed = self.neck(*features[1:])
        return self.bbox_head([conv(x) for conv, x in zip(self.neck.out_convs, mixed, strict=True)]).float()


class Head(nn.Module):
    """Class, objectness and box for every cell, from features of three sizes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()

        def branch() -> nn.ModuleList:
            return nn.ModuleList(nn.Sequential(Conv(width, width, 3), Conv(width, width, 3)) for _ in STRIDES)

        def last(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, outputs, 1) for _ in STRIDES)

        self.multi_level_cls_convs, self.multi_level_reg_convs = branch(), branch()
        self.multi_level_conv_cls, self.multi_level_conv_reg, self.multi_level_conv_obj = (
            last(classes),
            last(4),
            last(1),
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        rows = []
        for i, x in enumerate(features):
            kind, place = self.multi_level_cls_convs[i](x), self.multi_level_reg_convs[i](x)
            kind = self.multi_level_conv_cls[i](kind).sigmoid()
            box, objectness = self.multi_level_conv_reg[i](place), self.multi_level_conv_obj[i](place).sigmoid()
            rows.append(torch.cat([box, objectness, kind], 1).flatten(2))
        return torch.cat(rows, 2).transpose(1, 2)


def from_weights(stem: tuple[int, ...], classes: int) -> YOLOX:
    """The net, empty, whose first convolution has the shape `stem`. Raises ValueError when no YOLOX starts like that."""
    if tuple(stem[1:]) != (12, 3, 3) or stem[0] not in SIZES:
        raise ValueError("the first layer is not a YOLOX's")
    return YOLOX(*SIZES[stem[0]], classes)


def published_order(order: list[str]) -> list[str]:
    """The convolutions in the order of the YOLOX authors' own export, from the order in which this net calls them.

    Their CSP layers call the main branch first, and their head finishes one level and branch after the other.
    """
    names = [name for name in order if "out_convs" not in name and "bbox_head" not in name]
    for i in [i for i, name in enumerate(names) if name.endswith("short_conv")]:
        names[i], names[i + 1] = names[i + 1], names[i]
    for i in range(len(STRIDES)):
        names.append(f"neck.out_convs.{i}")
        for branch, lasts in (("cls", ("cls",)), ("reg", ("reg", "obj"))):
            names += [f"bbox_head.multi_level_{branch}_convs.{i}.{j}" for j in (0, 1)]
            names += [f"bbox_head.multi_level_conv_{last}.{i}" for last in lasts]
    return names
