"""LoRA on packed weights: a plain one runs beside the layer, as two thin products; other patches unpack the weight."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch, ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.weight_adapter.lora import LoRAAdapter

from ..base.mixin import mixed
from .layout import is_packed
from .ops import PackedWeight


class SideBranch:
    """out += up · (down · input) for all plain LoRAs of a layer at once: their ranks lie side by side."""

    def __init__(self, patches: list[tuple]) -> None:
        self.parts: list[tuple[float, torch.Tensor, torch.Tensor]] = []
        for strength, adapter, *_ in patches:
            up, down, alpha = adapter.weights[:3]
            scale = strength * (1.0 if alpha is None else alpha / down.shape[0])
            self.parts.append((scale, up.flatten(1), down.flatten(1)))
        self.ready: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """What it takes on a GPU, in 16 bits."""
        return 2 * sum(up.numel() + down.numel() for _, up, down in self.parts)

    def factors(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """down [all ranks, in] and up [out, all ranks] times strength, made where they are used: RAM keeps no copy."""
        downs = [down.to(device, dtype) for _, _, down in self.parts]
        ups = [(up.to(device, torch.float32) * scale).to(dtype) for scale, up, _ in self.parts]
        return torch.cat(downs), torch.cat(ups, 1)

    def prepare(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors, kept until the run ends."""
        where = (device, dtype)
        if where not in self.ready:
            self.ready[where] = self.factors(*where)
        return self.ready[where]

    def __call__(self, input: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        down, up = self.prepare(input.device, input.dtype)
        thin = torch.nn.functional.linear(input, down)
        out.view(-1, out.shape[-1]).addmm_(thin.flatten(0, -2), up.t())
        return out


def is_plain(patch: tuple, weight: torch.Tensor) -> bool:
    """Whether a patch is up · down and nothing else: no DoRA, no middle, no part of the weight, nothing subtracted.

    One of another model's size is left to ComfyUI, which says so and does without it.
    """
    _, adapter, strength_model, offset, function = patch
    if not isinstance(adapter, LoRAAdapter) or offset is not None or function is not None or strength_model != 1.0:
        return False
    up, down, _, mid, dora, reshape = adapter.weights
    fits = (up.flatten(1).shape[0], down.flatten(1).shape[1]) == tuple(weight.shape)
    return fits and mid is None and dora is None and reshape is None


class PackedPatcher(ModelPatcher):
    """Mixed into the patcher class of ComfyUI's choice: keeps patches of packed weights away from what would unpack,
    change and pack again, and hands them to the layers instead."""

    def packed_layers(self) -> dict[str, Any]:
        """Weight key → layer, of those that a patch is meant for."""
        layers: dict[str, Any] = {}
        for key in self.patches:
            if key.endswith(".weight"):
                layer = comfy.utils.get_attr(self.model, key.removesuffix(".weight"))
                if hasattr(layer, "side_branch") and is_packed(layer.weight):
                    layers[key] = layer
        return layers

    @contextmanager
    def patches_aside(self) -> Iterator[tuple[dict[str, Any], dict[str, list]]]:
        """While it lasts ComfyUI sees no patch of a packed weight but those that need it unpacked.

        Gives the layers whose patches run beside them, by weight key, and all patches.
        """
        layers = self.packed_layers()
        patches, wrappers = self.patches, self.weight_wrapper_patches
        aside = {
            key: patches[key]
            for key, layer in layers.items()
            if not all(is_plain(patch, layer.weight) for patch in patches[key])
        }
        self.patches = {key: value for key, value in patches.items() if key not in layers}
        self.weight_wrapper_patches = wrappers | {
            key: [LowVramPatch(key, aside), *wrappers.get(key, [])] for key in aside
        }
        try:
            yield {key: layer for key, layer in layers.items() if key not in aside}, patches
        finally:
            self.patches, self.weight_wrapper_patches = patches, wrappers

    def load(
        self,
        device_to: torch.device | None = None,
        lowvram_model_memory: float = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As ComfyUI's, with plain LoRAs beside their layers; what they take on the card is taken off the model's share."""
        with self.patches_aside() as (plain, patches):
            self.drop_side_branches()
            taken = 0
            for key, layer in plain.items():
                layer.side_branch = SideBranch(patches[key])
                taken += layer.side_branch.nbytes
            if 0 < lowvram_model_memory < 1e32:
                lowvram_model_memory = max(1, lowvram_model_memory - taken)
                full_load = full_load and lowvram_model_memory > self.model_size()
            return super().load(device_to, lowvram_model_memory, force_patch_weights, full_load, **kwargs)

    def partially_unload(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's, without the patches that are beside their layers."""
        with self.patches_aside():
            return super().partially_unload(*args, **kwargs)

    def unpatch_model(self, device_to: torch.device | None = None, unpatch_weights: bool = True) -> None:
        """As ComfyUI's; LoRAs beside their layers go too."""
        super().unpatch_model(device_to, unpatch_weights)
        if unpatch_weights:
            self.drop_side_branches()

    def before_run(self) -> None:
        """Takes what layers share or add before the network's first block, in the type that it computes in."""
        device, dtype = self.load_device, self.model.get_dtype_inference()
        layers = [module for module in self.model.modules() if isinstance(module, PackedWeight)]
        packed = [layer.weight for layer in layers if is_packed(layer.weight) and hasattr(layer, "in_features")]
        for scratch in {layer.scratch for layer in layers}:  # all layers of a model share one
            scratch.prepare(packed, device, dtype)
        for layer in layers:
            if layer.side_branch is not None:
                layer.side_branch.prepare(device, dtype)

    def after_run(self) -> None:
        """Gives that back: what comes next, such as the VAE, plans without it."""
        for module in self.model.modules():
            if isinstance(module, PackedWeight):
                module.scratch.clear()
                if module.side_branch is not None:
                    module.side_branch.ready.clear()

    def drop_side_branches(self) -> None:
        """Takes all LoRAs from beside their layers."""
        for module in self.model.modules():
            if getattr(module, "side_branch", None) is not None:
                module.side_branch = None

    def model_state_dict_for_saving(self, model: Any = None, prefix: str = "") -> dict:
        """As ComfyUI's. Raises ValueError for packed weights, which would be written as if they were numbers."""
        if any(is_packed(parameter) for parameter in (model or self.model).parameters()):
            raise ValueError(
                "A GGUF or 8-bit model cannot be saved: ComfyUI would write its packed bytes as if they were numbers. "
                "Load the fp16 variant and save that."
            )
        return super().model_state_dict_for_saving(model, prefix)

    def clone(self, *args: Any, **kwargs: Any) -> ModelPatcher:
        """As ComfyUI's; the clone treats packed weights in the same way, and those of a model of its own too."""
        copy = super().clone(*args, **kwargs)
        copy.__class__ = mixed(PackedPatcher, type(copy))
        return copy


def with_packed_patches(patcher: ModelPatcher) -> ModelPatcher:
    """The patcher of a model that was just loaded, with patches of packed weights going their own way; what its layers share
    is taken before a run, and given back after it and on unloading."""
    patcher.__class__ = mixed(PackedPatcher, type(patcher))
    patcher.add_callback(CallbacksMP.ON_PRE_RUN, lambda running: running.before_run())
    for moment in (CallbacksMP.ON_CLEANUP, CallbacksMP.ON_DETACH):  # a text encoder has no clean-up after a run
        patcher.add_callback(moment, lambda ending, *_: ending.after_run())
    return patcher
