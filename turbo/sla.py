"""Sparse attention as an attention override of ComfyUI: TurboDiffusion's with its trained linear part, and without it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..quant import trials
from .attention import BLOCK_K, sla

HEAD_DIM = 128
Projection = tuple[torch.Tensor, torch.Tensor]  # weight [128, 128] and bias [128] of a block's linear part
KEY = "steadydancer_sparse_attention"
# What the override keeps in ComfyUI's transformer_options during one evaluation.
DENSE, TAKEN = f"{KEY}_dense", f"{KEY}_block"


def attends_sparsely(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the GPU kernels of sparse attention run there: without them it is slower than dense attention."""
    return trials.capable(device, dtype) and trials.works(attending, device, dtype)


def attending(device: torch.device, dtype: torch.dtype) -> tuple:
    """sparse attention"""
    from . import triton_sla

    q, k, v = trials.pattern(3, 1, 200, 2, HEAD_DIM, device=device, dtype=dtype)
    weight = trials.pattern(HEAD_DIM, HEAD_DIM, device=device, dtype=dtype)
    bias = trials.pattern(HEAD_DIM, device=device, dtype=dtype)
    exact = sla(q.float(), k.float(), v.float(), (weight.float(), bias.float()), 1.0)
    return triton_sla.sla(q, k, v, (weight, bias), 1.0), exact, 0.03


@torch.compiler.disable
def sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, projection: Projection | None, topk: float, pinned: int = 0
) -> torch.Tensor:
    """`attention.sla`, by the GPU kernels where they run."""
    if attends_sparsely(q.device, q.dtype):
        from . import triton_sla

        with torch.cuda.device(q.device):
            return triton_sla.sla(q, k, v, projection, topk, pinned=pinned)
    return sla(q, k, v, projection, topk, pinned=pinned)


class SparseAttention:
    """The override. ComfyUI calls it for every attention; it takes the self-attention of the numbered blocks and leaves the
    rest to whoever was there before.

    `projections`: block index → weight [128, 128] and bias [128]; None for sparse attention without a linear part.
    `pinned_frames`: latent frames at the end of the tokens that every token looks at.
    """

    def __init__(
        self,
        projections: dict[int, Projection] | None,
        topk: float,
        previous: Callable | None = None,
        pinned_frames: int = 0,
    ) -> None:
        self.projections = projections
        self.topk = topk
        self.previous = previous
        self.pinned_frames = pinned_frames
        self.ready: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(
        self, func: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        options = kwargs["transformer_options"]
        if not self.takes(q, k, heads, args, kwargs) or options.get(DENSE):
            if self.previous is not None:
                return self.previous(func, q, k, v, heads, *args, **kwargs)
            return func(q, k, v, heads, *args, **kwargs)
        shape = (*q.shape[:2], heads, HEAD_DIM)
        projection = self.projection(options["block_index"], q.device, q.dtype)
        pinned = self.pinned_blocks(q.shape[1], options.get("grid_sizes"))
        return sparse_attention(q.view(shape), k.view(shape), v.view(shape), projection, self.topk, pinned).flatten(2)

    def takes(self, q: torch.Tensor, k: torch.Tensor, heads: int, args: tuple, kwargs: dict) -> bool:
        """Whether this is a self-attention: the first of its block, with as many keys as queries."""
        options = kwargs["transformer_options"]
        index = options.get("block_index")
        # Cross-attention, which comes later, looks the same where the video has as many tokens as the text: 512.
        first = options.get(TAKEN) != index
        options[TAKEN] = index
        plain = not args and kwargs.get("mask") is None and not kwargs.get("skip_reshape")
        known = index is not None and (self.projections is None or index in self.projections)
        return first and plain and known and q.shape == k.shape and q.shape[-1] == heads * HEAD_DIM

    def prepare(self, model: ModelPatcher) -> None:
        """Tries the kernels out and brings the projections over before a run's first block, not inside one."""
        device, dtype = model.load_device, model.model.get_dtype_inference()
        attends_sparsely(device, dtype)
        for index in self.projections or ():
            self.projection(index, device, dtype)

    def projection(self, index: int, device: torch.device, dtype: torch.dtype) -> Projection | None:
        """A block's projection on the device, kept until the run ends; None where there is none."""
        if self.projections is None:
            return None
        where = (index, device, dtype)
        if where not in self.ready:
            weight, bias = self.projections[index]
            self.ready[where] = weight.to(device, dtype), bias.to(device, dtype)
        return self.ready[where]

    def pinned_blocks(self, length: int, grid: tuple[int, int, int] | None) -> int:
        """Key blocks at the end that hold pinned frames; `grid` is frames, rows and columns of tokens."""
        if not self.pinned_frames or grid is None:
            return 0
        first = length - self.pinned_frames * grid[1] * grid[2]
        return math.ceil(length / BLOCK_K) - max(0, first) // BLOCK_K


def dense_first_step(
    executor: Callable,
    x: torch.Tensor,
    timestep: torch.Tensor,
    context: Any,
    clip_fea: Any,
    time_dim_concat: Any,
    transformer_options: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """Around one evaluation of the network: tells the override to stay away while the noise is at its strongest."""
    sigmas, schedule = transformer_options.get("sigmas"), transformer_options.get("sample_sigmas")
    if sigmas is not None and schedule is not None and float(sigmas.max()) >= float(schedule[0]) * (1 - 1e-5):
        transformer_options = {**transformer_options, DENSE: True}
    return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, *args, **kwargs)


def require_wan(model: ModelPatcher) -> WanModel:
    """The model's network. Raises ValueError where ComfyUI does not number all attentions of the network by block."""
    network = model.model.diffusion_model
    if not isinstance(network, WanModel) or type(network).forward_orig is not WanModel.forward_orig:
        raise ValueError(
            "Sparse attention cannot be used with this model: it works with Wan 2.1, Wan 2.2, TurboDiffusion and "
            "SteadyDancer, but not with VACE and other variants that have blocks of their own. Leave it out."
        )
    if network.dim // network.num_heads != HEAD_DIM:
        raise ValueError("Sparse attention needs heads of 128 channels, which this model does not have. Leave it out.")
    return network


def with_sla(
    model: ModelPatcher, projections: dict[int, tuple[torch.Tensor, torch.Tensor]], topk: float = 0.1
) -> ModelPatcher:
    """A clone of the MODEL with TurboDiffusion's attention. `projections`: block index → weight [128, 128], bias [128].

    Raises ValueError for models that it does not fit.
    """
    blocks = len(require_wan(model).blocks)
    if sorted(projections) != list(range(blocks)):
        raise ValueError(
            f"The linear attention of this file has {len(projections)} blocks and the model {blocks}. "
            "The file is damaged: download it again."
        )
    return with_override(model, projections, topk)


def pays(model: ModelPatcher) -> bool:
    """Whether sparse attention is faster than dense where the MODEL runs. On a card it takes our kernels; torch gathers the
    keys of every block, which costs more than it saves. On a CPU it gains all the same."""
    return model.load_device.type != "cuda" or attends_sparsely(model.load_device, model.model.get_dtype_inference())


def with_sparse_attention(model: ModelPatcher, keep: float) -> ModelPatcher:
    """A clone of the MODEL whose self-attention looks at the part `keep` of the blocks, without any training for it.

    The first step stays dense, and SteadyDancer's two reference frames are always looked at.
    """
    network = require_wan(model)
    pinned = 2 if hasattr(network, "patch_embedding_fuse") else 0
    clone = with_override(model, None, keep, pinned)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, dense_first_step)
    return clone


def with_override(
    model: ModelPatcher, projections: dict[int, Projection] | None, topk: float, pinned_frames: int = 0
) -> ModelPatcher:
    """A clone of the MODEL with the override, which hands on to the one that was there before."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    previous = options.get("optimized_attention_override")
    override = SparseAttention(projections, topk, previous, pinned_frames)
    options["optimized_attention_override"] = override
    clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, override.prepare)
    return clone
