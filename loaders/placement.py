"""Puts a plan into effect through ComfyUI's own knobs: its estimate, its placement, its way of evaluating guidance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import comfy.samplers
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher, ModelPatcherDynamic
from comfy.patcher_extension import WrappersMP

from ..base.mixin import mixed
from ..planning.plan import Plan
from ..quant.patches import PackedPatcher
from .run import PlannedRun

KEY = "steadydancer_plan"


def placed(patcher: ModelPatcher, run: PlannedRun) -> ModelPatcher:
    """The MODEL, placed and measured as planned."""
    plan = run.plan
    if plan.kept < plan.blocks and plan.card.sm:
        patcher.__class__ = limited_class(type(patcher))
        patcher.model.resident_limit = plan.resident
    if not plan.batched:
        patcher.set_model_sampler_calc_cond_batch_function(one_by_one)

    def sample(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        clone = executor.class_obj.model_patcher  # perhaps with weights of its own
        with run.measured("sample", clone), estimate_of(plan, clone.model):
            return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
    return patcher


@contextmanager
def estimate_of(plan: Plan, model: BaseModel) -> Iterator[None]:
    """Makes ComfyUI's own estimate, which is a factor times the latent's area, that of the plan for as long as it lasts."""
    job, own = plan.job, model.memory_usage_factor
    height, width = job.height // 8, job.width // 8
    conds: tuple[str, ...] = model.memory_usage_factor_conds
    reference = {name: [[1, 16, 1, height, width]] for name in conds}
    latent = [1, 16, (job.frames - 1) // 4 + 1, height, width]
    model.memory_usage_factor *= plan.activations / model.memory_required(latent, cond_shapes=reference)
    try:
        yield
    finally:
        model.memory_usage_factor = own


def one_by_one(args: dict) -> list:
    """Evaluates the guidance branches after each other: a third of the activations, hardly slower at video sizes."""
    rest = args["input"], args["sigma"], args["model_options"]
    if "multigpu_clones" in args["model_options"]:  # core's MultiGPU CFG Split shares the branches out itself
        return comfy.samplers.calc_cond_batch(args["model"], args["conds"], *rest)
    # None before a branch keeps its number, by which patches tell positive from negative
    return [
        comfy.samplers.calc_cond_batch(args["model"], [None] * i + [cond], *rest)[i]
        for i, cond in enumerate(args["conds"])
    ]


class LimitedPatcher(ModelPatcher):
    """Mixed into the patcher class of ComfyUI's choice: no more of the model on the card than planned."""

    def load(
        self,
        device_to: torch.device | None = None,
        lowvram_model_memory: float = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
        **kwargs: Any,
    ) -> None:
        """As ComfyUI's, with at most `resident_limit` bytes on the card."""
        limit = self.model.resident_limit
        if self.is_dynamic():
            super().load(device_to, lowvram_model_memory, force_patch_weights, full_load, **kwargs)
            # A ceiling, which each load lifts. `set_watermark_limit` is a floor: what may not be evicted when memory is short.
            cast(ModelPatcherDynamic, self)._vbar_get().set_watermark(limit)
            return
        allowed = lowvram_model_memory if 0 < lowvram_model_memory < limit else limit
        super().load(device_to, allowed, force_patch_weights, **kwargs)

    def clone(self, *args: Any, **kwargs: Any) -> ModelPatcher:
        """As ComfyUI's; the clone keeps the limit."""
        copy = super().clone(*args, **kwargs)
        copy.__class__ = limited_class(type(copy))
        # A clone without dynamic VRAM has a model of its own.
        copy.model.resident_limit = self.model.resident_limit
        return copy


def limited_class(base: type) -> type:
    """The class with the limit mixed in."""
    if issubclass(base, PackedPatcher):  # it takes off what its LoRAs need first: the limit is for the weights alone
        return mixed(PackedPatcher, mixed(LimitedPatcher, base.__bases__[1]))
    return mixed(LimitedPatcher, base)


def on_cpu() -> dict:
    """Options with which ComfyUI's text encoder loader keeps it on the CPU."""
    device = torch.device("cpu")
    return {"load_device": device, "offload_device": device}
