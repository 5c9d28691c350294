"""SteadyDancer plus what rCM training changed in Wan's text-to-video model: an experiment, after TurboDiffusion's own merge.

TurboDiffusion's image-to-video weights were made so: W + strength · (W_rCM − W_base), over the tensors that both have.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_management import cast_to_device
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from comfy.weight_adapter import WeightAdapterBase

# What text-to-video and SteadyDancer share. The picture's and the pose's own layers are not in it.
SHARED = ("blocks.", "text_embedding.", "time_embedding.", "time_projection.", "head.")
NOT_SHARED = ("k_img", "v_img", "proj_l")


class Difference(WeightAdapterBase):
    """A patch that adds strength · (a − b), made when it is needed: nothing of the size of a model is stored.

    `weights`: a and b, of the patched weight's shape. The difference is float32: the numbers are close to each other, and
    ComfyUI's own patches would round each of them to the type of the weight. The sum is of ComfyUI's type for patches,
    float32 but for a model that is loaded whole on a GPU, where it is float16.
    """

    name = "difference"

    def __init__(self, loaded_keys: set[str], weights: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.loaded_keys, self.weights = loaded_keys, list(weights)

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The weight, with the difference added in place."""
        a, b = self.weights
        difference = cast_to_device(a, weight.device, torch.float32, copy=True)
        difference -= cast_to_device(b, weight.device, b.dtype)  # in place: a layer of the 14B has 283 MB in float32
        difference *= strength
        weight += function(difference)
        return weight


def is_shared(key: str) -> bool:
    """Whether a tensor of SteadyDancer's is one of Wan's text-to-video model too."""
    return key.startswith(SHARED) and not any(part in key for part in NOT_SHARED)


def shared_weights(model: ModelPatcher) -> dict[str, torch.Tensor]:
    """The shared tensors of a MODEL, key → tensor. Raises ValueError where one of them is quantised."""
    found = {key: t for key, t in model.model.diffusion_model.state_dict().items() if is_shared(key)}
    for tensor in found.values():
        if isinstance(tensor, QuantizedTensor) or not tensor.dtype.is_floating_point or tensor.dtype.itemsize == 1:
            raise ValueError(
                "The merge needs unquantised weights, and one of the models is quantised (fp8, GGUF or int8): the small "
                "differences would be lost in rounding. Choose the fp16 or bf16 variants."
            )
    return found


def merge_rcm(model: ModelPatcher, rcm: ModelPatcher, base: ModelPatcher, strength: float) -> ModelPatcher:
    """A clone of `model` with strength · (rcm − base) added to the shared tensors when it is loaded.

    `model` is SteadyDancer, `rcm` the model that rCM made of `base`, which is Wan's text-to-video model.
    Raises ValueError where a model is quantised or of another size.
    """
    target, tuned, plain = (shared_weights(patcher) for patcher in (model, rcm, base))
    keys = target.keys() & tuned.keys() & plain.keys()
    if not keys or any(not target[key].shape == tuned[key].shape == plain[key].shape for key in keys):
        raise ValueError(
            "The three models are not of one size, so their weights cannot be added. Use the 14B models: SteadyDancer, "
            "TurboWan 2.1 text to video 14B 480p, and Wan 2.1 text to video 14B."
        )
    clone = model.clone()
    patches = {f"diffusion_model.{key}": Difference({key}, (tuned[key], plain[key])) for key in sorted(keys)}
    clone.add_patches(patches, strength)
    return clone
