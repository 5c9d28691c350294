"""The three small pose modules of SteadyDancer (109,392 parameters), kept in float32.

They work on pose *latents* [B, 16, T, h, w], already normalised by the latent format.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from comfy.model_management import cast_to
from comfy.ops import manual_cast as ops  # casts and offloads like the rest of the model, but is never quantised
from einops import rearrange

CHANNELS = 16
ATTENTION_DIM = 128
ATTENTION_HEADS = 8
PIXELS = 1 << 13  # whose frames attend at a time: each is an item of a batch, and a GPU's kernels end at 65,535


class TemporalConv(nn.Module):
    """A depthwise 1×3×3 convolution, then a full 3×1×1 one, each followed by SiLU."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.spatial = ops.Conv3d(
            CHANNELS,
            CHANNELS,
            (1, 3, 3),
            padding=(0, 1, 1),
            groups=CHANNELS,
            bias=False,
            device=device,
            dtype=torch.float32,
        )
        self.temporal = ops.Conv3d(CHANNELS, CHANNELS, (3, 1, 1), padding=(1, 0, 0), device=device, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.temporal(F.silu(self.spatial(x))))


def temporal_embedding(device: torch.device | str | None = None) -> nn.Sequential:
    """Three temporal convolutions: [B, 16, T, h, w] to the same shape.

    The published checkpoint numbers them 0, 2 and 4.
    """
    return nn.Sequential(TemporalConv(device), nn.Identity(), TemporalConv(device), nn.Identity(), TemporalConv(device))


def hard_gate(x: torch.Tensor) -> torch.Tensor:
    """relu6(x + 3) / 3: from 0 to 2. The published code divides by 3, where the usual hard sigmoid divides by 6."""
    return F.relu6(x + 3.0) / 3.0


class SpatialEmbedding(nn.Module):
    """Dynamic convolution over each frame by itself: frames [N, 16, h, w] to the same shape."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()
        reduced = CHANNELS // 4

        def conv(inputs: int, outputs: int) -> ops.Conv2d:
            return ops.Conv2d(inputs, outputs, 1, bias=False, device=device, dtype=torch.float32)

        def linear(inputs: int, outputs: int) -> ops.Linear:
            return ops.Linear(inputs, outputs, bias=False, device=device, dtype=torch.float32)

        self.reduced = reduced
        self.conv = conv(CHANNELS, CHANNELS)
        self.conv_q = conv(CHANNELS, reduced)
        self.conv_p = conv(reduced, CHANNELS)
        self.fc: Any = nn.Sequential(linear(CHANNELS, reduced), nn.Module())  # fc.0 and fc.1.fc.0 in the published file
        self.fc[1].fc = nn.Sequential(linear(reduced, reduced))
        self.fc_phi = linear(reduced, reduced * reduced)
        self.fc_scale = linear(reduced, CHANNELS)
        self.bn1 = ops.GroupNorm(reduced, reduced, device=device, dtype=torch.float32)
        self.bn2 = ops.GroupNorm(reduced, reduced, device=device, dtype=torch.float32)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        n, _, h, w = frames.shape
        z = self.fc[0](frames.mean(dim=(2, 3)))
        z = z * hard_gate(self.fc[1].fc(z))
        phi = self.fc_phi(z).view(n, self.reduced, self.reduced)
        scaled = hard_gate(self.fc_scale(z)).view(n, CHANNELS, 1, 1) * self.conv(frames)
        q = self.bn1(self.conv_q(frames)).flatten(2)
        q = self.bn2(torch.bmm(phi, q)) + q
        return self.conv_p(q.view(n, self.reduced, h, w)) + scaled


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [T, C, h, w]; its weights are stored as [1, C, 1, 1]."""

    def __init__(self, channels: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, 1, 1, device=device, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(1, channels, 1, 1, device=device, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-5).movedim(-1, 1)
        return x * cast_to(self.weight, x.dtype, x.device) + cast_to(self.bias, x.dtype, x.device)


class FrameAttention(nn.Module):
    """Attention over the frames, each latent pixel by itself, without positions.

    The published code feeds [frames, pixels, 128] to an attention that takes dimension 0 as the sequence, so that a
    frame sees all frames at its own pixel and never another pixel.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(
            torch.empty(3 * ATTENTION_DIM, ATTENTION_DIM, device=device, dtype=torch.float32)
        )
        self.in_proj_bias = nn.Parameter(torch.empty(3 * ATTENTION_DIM, device=device, dtype=torch.float32))
        self.out_proj = ops.Linear(ATTENTION_DIM, ATTENTION_DIM, device=device, dtype=torch.float32)

    def forward(self, query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """`query` and `context` [T, 128, h, w] of one sample; returns [T, 128, h, w]."""
        h = query.shape[2]
        weights = cast_to(self.in_proj_weight, query.dtype, query.device).chunk(3)
        biases = cast_to(self.in_proj_bias, query.dtype, query.device).chunk(3)

        def heads(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return rearrange(F.linear(pixels, weight, bias), "n t (heads c) -> n heads t c", heads=ATTENTION_HEADS)

        query, context = (rearrange(x, "t c h w -> (h w) t c") for x in (query, context))
        parts = []
        for few, theirs in zip(query.split(PIXELS), context.split(PIXELS)):
            q, k, v = (heads(x, weights[i], biases[i]) for i, x in enumerate((few, theirs, theirs)))
            parts.append(rearrange(F.scaled_dot_product_attention(q, k, v), "n heads t c -> n t (heads c)"))
        return rearrange(self.out_proj(torch.cat(parts)), "(h w) t c -> t c h w", h=h)


class AlignmentUnit(nn.Module):
    """Aligns the pose with the video that is being denoised: the noisy latent asks, the pose answers."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int) -> ops.Conv2d:
            return ops.Conv2d(inputs, outputs, 1, device=device, dtype=torch.float32)

        self.proj_p = conv(CHANNELS, ATTENTION_DIM)
        self.proj_r = conv(CHANNELS, ATTENTION_DIM)
        self.proj_p_back = conv(ATTENTION_DIM, CHANNELS)
        self.cross_attn = FrameAttention(device)
        self.ffn_pose = nn.Sequential(conv(ATTENTION_DIM, ATTENTION_DIM), nn.SiLU(), conv(ATTENTION_DIM, ATTENTION_DIM))
        self.norm1 = ChannelNorm(ATTENTION_DIM, device)
        self.norm2 = ChannelNorm(ATTENTION_DIM, device)

    def forward(self, pose: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """`pose` (fused) and `noisy` latents [B, 16, T, h, w]; returns [B, 16, T, h, w].

        Sample by sample: the published code attends across the samples of a batch, which would mix guidance branches.
        """
        return torch.stack([self.align(p.transpose(0, 1), n.transpose(0, 1)) for p, n in zip(pose, noisy)])

    def align(self, pose: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """One sample of `forward`, both latents as [T, 16, h, w]; returns [16, T, h, w]."""
        x = self.norm1(self.cross_attn(self.proj_r(noisy), self.proj_p(pose)))
        x = self.norm2(x + self.ffn_pose(x))
        return self.proj_p_back(x).transpose(0, 1)
