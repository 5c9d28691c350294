"""DWPose and RTMW: whole-body pose nets with 133 points, in plain torch.

Sources: RTMPose (T. Jiang and others, arXiv 2303.07399), DWPose (Z. Yang and others, arXiv 2307.15880),
RTMW (T. Jiang and others, arXiv 2407.08634).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .layers import PAFPN, Conv, CSPNeXtBlock, csp_stages

POINTS = 133
CHANNELS = 256  # of a point in the head
KEYS = 128  # of its attention
# By the width of the first convolution: blocks and channels as parts of the l size's.
SIZES = {12: (0.167, 0.375), 16: (0.33, 0.5), 24: (0.67, 0.75), 32: (1.0, 1.0), 40: (1.33, 1.25)}


class PoseNet(nn.Module):
    """Normalised crops [n, 3, height, width], red green blue → SimCC x [n, 133, 2·width] and y [n, 133, 2·height].

    The head calculates in float32 whatever the trunk does: an argmax over 768 bins needs it. Its few single factors are
    fetched where they are used: ComfyUI leaves them in RAM when the card is nearly full.
    """

    bn_eps = 1e-5

    backbone: Any  # nested ModuleDicts
    neck: PAFPN | None
    head: "Head"

    def __init__(self, deepen: float, widen: float, width: int, height: int, two_scales: bool) -> None:
        super().__init__()
        self.width, self.height = width, height
        widths = [int(64 * 2**i * widen) for i in range(5)]
        blocks = [max(round(count * deepen), 1) for count in (3, 6, 6, 3)]
        half = widths[0] // 2
        self.backbone = nn.ModuleDict(
            {
                "stem": nn.Sequential(Conv(3, half, 3, 2), Conv(half, half, 3), Conv(half, widths[0], 3)),
                **csp_stages(widths, blocks, CSPNeXtBlock, last_residual=False, attention=True),
            }
        )
        cells = width // 32 * (height // 32)
        if two_scales:
            self.neck = PAFPN(widths[2:], 2, CSPNeXtBlock)
            self.head = TwoScaleHead(widths[4], cells, width, height)
        else:
            self.neck = None
            self.head = Head(widths[4], cells, width, height)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.backbone["stem"](crops.to(self.backbone["stem"][0].weight.dtype))
        features = []
        for name in ("stage1", "stage2", "stage3", "stage4"):
            x = self.backbone[name](x)
            features.append(x)
        features = features[-1:] if self.neck is None else self.neck(*features[1:])[1:]
        return self.head(*(x.float() for x in features))


class Head(nn.Module):
    """One 7×7 map a point, flattened into a token; the tokens attend to each other."""

    def __init__(self, channels: int, cells: int, width: int, height: int) -> None:
        super().__init__()
        self.final_layer = nn.Conv2d(channels, POINTS, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(cells), nn.Linear(cells, CHANNELS, bias=False))
        self.gau = GatedAttention()
        self.cls_x = nn.Linear(CHANNELS, 2 * width, bias=False)
        self.cls_y = nn.Linear(CHANNELS, 2 * height, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.classify(self.mlp(self.final_layer(x).flatten(2)))

    def classify(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [n, 133, 256] as SimCC x and y."""
        tokens = self.gau(tokens)
        return self.cls_x(tokens), self.cls_y(tokens)


class TwoScaleHead(Head):
    """RTMW's: half of a token from the coarse features, half from finer ones."""

    def __init__(self, channels: int, cells: int, width: int, height: int) -> None:
        super().__init__(channels, cells, width, height)
        self.conv_dec = nn.Conv2d(channels // 4, channels // 4, 7, padding=3)
        self.final_layer2 = nn.Conv2d(channels // 2 + channels // 4, POINTS, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(cells), nn.Linear(cells, CHANNELS // 2, bias=False))
        self.mlp2 = nn.Sequential(ScaleNorm(4 * cells), nn.Linear(4 * cells, CHANNELS // 2, bias=False))

    def forward(  # type: ignore[override]  # PoseNet calls it with the finer features too
        self, fine: torch.Tensor, coarse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.mlp(F.relu(self.final_layer(coarse)).flatten(2))
        fine = torch.cat([F.relu(self.conv_dec(F.pixel_shuffle(coarse, 2))), fine], 1)
        second = self.mlp2(F.relu(self.final_layer2(fine)).flatten(2))
        return self.classify(torch.cat([first, second], 2))


class ScaleNorm(nn.Module):
    """x over its length, times one learned factor."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.size**-0.5
        return x / norm.clamp(min=1e-5) * self.g.to(x.device)


class GatedAttention(nn.Module):
    """A gated attention unit with squared ReLU instead of softmax (W. Hua and others, arXiv 2202.10447)."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = ScaleNorm(CHANNELS)
        self.uv = nn.Linear(CHANNELS, 4 * CHANNELS + KEYS, bias=False)
        self.gamma = nn.Parameter(torch.ones(2, KEYS))
        self.beta = nn.Parameter(torch.zeros(2, KEYS))
        self.o = nn.Linear(2 * CHANNELS, CHANNELS, bias=False)
        self.res_scale = Scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value, base = F.silu(self.uv(self.ln(x))).split([2 * CHANNELS, 2 * CHANNELS, KEYS], 2)
        gamma, beta = self.gamma.to(x.device), self.beta.to(x.device)
        query, key = (base.unsqueeze(2) * gamma[None, None] + beta).unbind(2)
        weights = F.relu(query @ key.transpose(1, 2) / math.sqrt(KEYS)).square()
        return self.res_scale(x) + self.o(gate * (weights @ value))


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CHANNELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale.to(x.device)


def from_weights(stem: tuple[int, ...], bins_x: int, bins_y: int, two_scales: bool) -> PoseNet:
    """The net, empty, with this first convolution and these output sizes. Raises ValueError when no such net exists."""
    if tuple(stem[1:]) != (3, 3, 3) or stem[0] not in SIZES:
        raise ValueError("the first layer is not a DWPose's")
    return PoseNet(*SIZES[stem[0]], bins_x // 2, bins_y // 2, two_scales)
