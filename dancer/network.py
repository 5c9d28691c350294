"""SteadyDancer's diffusion network: ComfyUI's Wan 2.1 I2V with another embedding before its blocks.

Source: the published SteadyDancer code (Apache-2.0). Only what comes before the blocks differs, so the block loop, the
head and everything that ComfyUI attaches to them are ComfyUI's own.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.wan.model import MLPProj, WanModel
from einops import rearrange

from .cancel import prompt_cancel
from .pose_modules import CHANNELS, AlignmentUnit, SpatialEmbedding, temporal_embedding

PATCH = (1, 2, 2)
REFERENCE_FRAMES = 2


class SummedImageEmbedding(MLPProj):
    """Embeds the CLIP features of the picture and of the first pose, [B, 257, 1280·n], one by one and adds them up."""

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        return sum(super(SummedImageEmbedding, self).forward(x) for x in image_embeds.split(1280, dim=-1))


def fuse_pose(temporal: Callable, spatial: Callable, pose: torch.Tensor) -> torch.Tensor:
    """Pose latent plus its motion and its shape: [B, 16, T, h, w] to the same shape."""
    frames = spatial(rearrange(pose, "b c t h w -> (b t) c h w"))
    return pose + temporal(pose) + rearrange(frames, "(b t) c h w -> b c t h w", b=len(pose))


def embed(packed: torch.Tensor, embed_reference: Callable, parts: tuple) -> torch.Tensor:
    """Turns what `_forward` packed, [B, 52, T + 2, h, w] in float32, into tokens [B, dim, T + 2, h/2, w/2].

    `embed_reference` is the plain convolution with the weights of `patch_embedding`.
    """
    fuse_embedding, pose_embedding, temporal, spatial, align = parts
    video, reference, reference_pose = packed.split([packed.shape[2] - REFERENCE_FRAMES, 1, 1], dim=2)
    x, pose = video[:, :-CHANNELS], video[:, -CHANNELS:]
    fused = fuse_pose(temporal, spatial, pose)
    aligned = align(fused, x[:, :CHANNELS])
    return torch.cat(
        (
            fuse_embedding(torch.cat((x, fused, aligned), dim=1)),
            embed_reference(reference[:, :-CHANNELS]),
            pose_embedding(reference_pose[:, -CHANNELS:]),
        ),
        dim=2,
    )


class SteadyDancerModel(WanModel):
    """Wan 2.1 I2V whose video tokens carry the pose, followed by two reference frames that are dropped at the end.

    ComfyUI's loop begins with `patch_embedding(x)`. A stem of that name does all the embedding instead, on one packed
    tensor: channels 0–35 are x (noise, mask, image latent) and 36–51 the pose; frames 0…T−1 are the video, frame T the
    picture (in x's channels), frame T + 1 the first pose (in the pose's).
    """

    in_channels = CHANNELS  # of the latent; core's RenormCFG asks for them

    def __init__(
        self,
        dim: int = 5120,
        in_dim: int = 36,
        device: Any = None,
        dtype: Any = None,
        operations: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim=dim, in_dim=in_dim, device=device, dtype=dtype, operations=operations, **kwargs)
        settings = {"device": device, "dtype": torch.float32}

        class Stem(operations.Conv3d):
            def forward(self, packed: torch.Tensor) -> torch.Tensor:
                return embed(packed, super().forward, self.parts)

        self.patch_embedding = Stem(in_dim, dim, kernel_size=PATCH, stride=PATCH, **settings)
        self.patch_embedding_fuse = operations.Conv3d(in_dim + 2 * CHANNELS, dim, PATCH, PATCH, **settings)
        self.patch_embedding_ref_c = operations.Conv3d(CHANNELS, dim, PATCH, PATCH, **settings)
        self.condition_embedding_temporal = temporal_embedding(device)
        self.condition_embedding_spatial = SpatialEmbedding(device)
        self.condition_embedding_align = AlignmentUnit(device)
        # The parts and not the network itself: a cycle would keep 16 GB alive after the model is dropped.
        self.patch_embedding.parts = (
            self.patch_embedding_fuse,
            self.patch_embedding_ref_c,
            self.condition_embedding_temporal,
            self.condition_embedding_spatial,
            self.condition_embedding_align,
        )
        self.img_emb = SummedImageEmbedding(
            1280, dim, operation_settings={"operations": operations, "device": device, "dtype": dtype}
        )

    def _forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        clip_fea: torch.Tensor | None = None,
        time_dim_concat: torch.Tensor | None = None,
        transformer_options: dict = {},  # noqa: B006 - the signature is ComfyUI's
        pose_latents: torch.Tensor | None = None,
        clip_fea_pose: torch.Tensor | None = None,
        ref_latent: torch.Tensor | None = None,
        ref_pose_latent: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """One evaluation: the velocity [B, 16, T, h, w].

        x: noisy latent 16, mask 4 and image latent 16, [B, 36, T, h, w]. pose_latents [B, 16, T, h, w].
        clip_fea and clip_fea_pose [B, 257, 1280]. ref_latent and ref_pose_latent [B, 16, 1, h, w]: the picture and the
        first pose of the whole clip; frame 0 of the image latent and of the pose latent where they are not given.
        time_dim_concat is how the two reference frames reach ComfyUI's loop, so a caller's own is not used.
        """
        if pose_latents is None:
            raise ValueError(
                "SteadyDancer got no pose video: without one it cannot know the dance. "
                "Build positive and negative with the node SteadyDancer Conditioning."
            )
        image_latent = x[:, -CHANNELS:]
        ref_latent = image_latent[:, :, :1] if ref_latent is None else ref_latent
        ref_pose_latent = pose_latents[:, :, :1] if ref_pose_latent is None else ref_pose_latent

        ones = torch.ones_like(ref_latent[:, :4])
        unused = torch.zeros_like(ref_latent)
        reference = torch.cat((ref_latent, ones, ref_latent, unused), dim=1)
        reference_pose = torch.cat((torch.zeros_like(x[:, :, :1]), ref_pose_latent), dim=1)
        patches = transformer_options.get("patches", {})
        patches = {**patches, "double_block": [*patches.get("double_block", []), prompt_cancel()]}
        clip_features = [features for features in (clip_fea, clip_fea_pose) if features is not None]
        # ComfyUI's own loop pads, numbers and finally drops what is handed over as `time_dim_concat`.
        return super()._forward(
            torch.cat((x, pose_latents), dim=1),
            timestep,
            context,
            clip_fea=torch.cat(clip_features, dim=-1) if clip_features else None,
            time_dim_concat=torch.cat((reference, reference_pose), dim=2),
            transformer_options={**transformer_options, "patches": patches},
            **kwargs,
        )
