"""SteadyDancer plus what rCM training changed in Wan's text-to-video model: an experiment, after TurboDiffusion's own merge.

TurboDiffusion's image-to-video weights were made so: W + strength · (W_rCM − W_T2V), over the tensors that both have.
"""

import torch

from ..quant.layout import is_packed

# What text-to-video and SteadyDancer share. The picture's and the pose's own layers are not in it.
SHARED = ("blocks.", "text_embedding.", "time_embedding.", "time_projection.", "head.")
NOT_SHARED = ("k_img", "v_img", "proj_l")


def is_shared(key: str) -> bool:
    return key.startswith(SHARED) and not any(part in key for part in NOT_SHARED)


def shared_weights(model) -> dict[str, torch.Tensor]:
    """The shared tensors of a MODEL, key → tensor. Raises ValueError where one of them is quantised."""
    found = {key: t for key, t in model.model.diffusion_model.state_dict().items() if is_shared(key)}
    for tensor in found.values():
        if is_packed(tensor) or not tensor.dtype.is_floating_point or tensor.dtype.itemsize == 1:
            raise ValueError(
                "The merge needs unquantised weights, and one of the models is quantised (fp8, GGUF or int8): the small "
                "differences would be lost in rounding. Choose the fp16 or bf16 variants."
            )
    return found


def merge_rcm(base, rcm, t2v, strength: float):
    """A clone of `base` with strength · (rcm − t2v) added to the shared tensors when it is loaded.

    Raises ValueError where a model is quantised or of another size.
    """
    target, tuned, plain = (shared_weights(model) for model in (base, rcm, t2v))
    keys = target.keys() & tuned.keys() & plain.keys()
    if not keys or any(not target[key].shape == tuned[key].shape == plain[key].shape for key in keys):
        raise ValueError(
            "The three models are not of one size, so their weights cannot be added. Use the 14B models: SteadyDancer, "
            "TurboWan 2.1 text to video 14B 480p, and Wan 2.1 text to video 14B."
        )
    clone = base.clone()
    patches = {f"diffusion_model.{key}": (tuned[key], plain[key]) for key in sorted(keys)}
    # Two plain differences rather than one stored: nothing of the size of a model is made.
    clone.add_patches({key: ("diff", (a,)) for key, (a, _) in patches.items()}, strength)
    clone.add_patches({key: ("diff", (b,)) for key, (_, b) in patches.items()}, -strength)
    return clone
