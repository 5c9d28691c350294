"""Building blocks of the detector and the pose nets. BatchNorm is folded into the convolutions when weights are read.

Names follow the published checkpoints (mmdet, mmpose) without their `.conv`, so that keys need no table.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Conv2d):
    """A convolution that keeps the size (or halves it with stride 2), then SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(super().forward(x), inplace=True)


class DepthwiseConv(nn.Module):
    """A convolution channel by channel, then one across channels."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise_conv = Conv(channels, channels, kernel, groups=channels)
        self.pointwise_conv = Conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class DarknetBlock(nn.Module):
    """YOLOX's bottleneck: 1×1, 3×3."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = Conv(channels, channels)
        self.conv2 = Conv(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.residual else out


class CSPNeXtBlock(nn.Module):
    """RTMPose's bottleneck: 3×3, depthwise 5×5, pointwise."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = Conv(channels, channels, 3)
        self.conv2 = DepthwiseConv(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.residual else out


class ChannelAttention(nn.Module):
    """Each channel times a factor that follows from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """Half of the channels through the blocks, half past them."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, block: type, residual: bool = True, attention: bool = False
    ) -> None:
        super().__init__()
        self.short_conv = Conv(inputs, outputs // 2)
        self.main_conv = Conv(inputs, outputs // 2)
        self.blocks = nn.Sequential(*(block(outputs // 2, residual) for _ in range(blocks)))
        self.attention = ChannelAttention(outputs) if attention else nn.Identity()
        self.final_conv = Conv(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.short_conv(x)
        main = self.blocks(self.main_conv(x))
        return self.final_conv(self.attention(torch.cat([main, short], 1)))


class SPP(nn.Module):
    """Max pools of three sizes beside the plain features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, channels // 2)
        self.conv2 = Conv(channels * 2, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13))], 1))


def csp_stages(
    widths: list[int], blocks: list[int], block: type, last_residual: bool, attention: bool
) -> dict[str, nn.Module]:
    """stage1 … stage4, each half the size of the one before; the last has the pools."""
    stages: dict[str, nn.Module] = {}
    for i, count in enumerate(blocks):
        last = i == len(blocks) - 1
        stages[f"stage{i + 1}"] = nn.Sequential(
            Conv(widths[i], widths[i + 1], 3, 2),
            *([SPP(widths[i + 1])] if last else []),
            CSPLayer(widths[i + 1], widths[i + 1], count, block, last_residual or not last, attention),
        )
    return stages


class PAFPN(nn.Module):
    """Features of three sizes mixed downwards and upwards again."""

    def __init__(self, widths: list[int], blocks: int, block: type) -> None:
        super().__init__()
        small, middle, large = widths

        def csp(inputs: int, outputs: int) -> CSPLayer:
            return CSPLayer(inputs, outputs, blocks, block, residual=False)

        self.reduce_layers = nn.ModuleList([Conv(large, middle), Conv(middle, small)])
        self.top_down_blocks = nn.ModuleList([csp(2 * middle, middle), csp(2 * small, small)])
        self.downsamples = nn.ModuleList([Conv(small, small, 3, 2), Conv(middle, middle, 3, 2)])
        self.bottom_up_blocks = nn.ModuleList([csp(2 * small, middle), csp(2 * middle, large)])

    def forward(self, small: torch.Tensor, middle: torch.Tensor, large: torch.Tensor) -> list[torch.Tensor]:
        large = self.reduce_layers[0](large)
        middle = self.top_down_blocks[0](torch.cat([F.interpolate(large, scale_factor=2.0), middle], 1))
        middle = self.reduce_layers[1](middle)
        small = self.top_down_blocks[1](torch.cat([F.interpolate(middle, scale_factor=2.0), small], 1))
        middle = self.bottom_up_blocks[0](torch.cat([self.downsamples[0](small), middle], 1))
        large = self.bottom_up_blocks[1](torch.cat([self.downsamples[1](middle), large], 1))
        return [small, middle, large]
