"""One evaluation of SteadyDancer's network with the golden inputs, and how far its result is from another."""

import torch

from .golden import Golden


def velocity(model, golden: Golden, network=None) -> torch.Tensor:
    """What the model, or `network` in its place, says at timestep 731: [1, 16, frames, height, width] in float32."""
    inputs = golden.network_inputs()
    x = inputs.pop("x")
    with torch.inference_mode():
        return (network or model.model.diffusion_model)(x, torch.full((1,), 731.0), **inputs).float()


def loaded(model):
    """The model once ComfyUI has loaded it."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    return model


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The norm of the difference as a part of the norm of `b`."""
    return ((a - b).norm() / b.norm()).item()
