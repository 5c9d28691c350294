"""rCM sampling with one or two experts: the state and the noise go through the whole run, the experts take turns."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from tqdm.auto import tqdm

from ..dancer.cancel import prompt_cancel
from .schedule import high_noise_steps


class RCMSampler(comfy.samplers.Sampler):
    """A sampler that is called once for every expert and goes on where it was.

    `generator`: draws the first noise and that of every step, the last one's too, as published. `times`: [steps + 1],
    float64. `ode`: follow the velocity instead of adding new noise.
    """

    steps: range  # of the next call

    def __init__(self, times: list[float], generator: torch.Generator, ode: bool = False) -> None:
        self.times = times
        self.generator = generator
        self.ode = ode
        self.first_noise: torch.Tensor | None = None
        self.state: torch.Tensor | None = None

    def draw(self, shape: torch.Size, device: torch.device) -> torch.Tensor:
        """Noise of float32 values from the one generator."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device).to(device)

    def sample(  # type: ignore[override]  # the base class names no arguments, ComfyUI gives these
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Callable | None,
        noise: torch.Tensor,
        latent_image: Any = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """The steps in `self.steps`. `noise` only says shape and device."""
        precise = torch.float64 if comfy.model_management.supports_fp64(noise.device) else torch.float32
        if self.state is None:
            self.first_noise = self.draw(noise.shape, noise.device)
            self.state = self.times[0] * self.first_noise.to(precise) + (1 - self.times[0]) * latent_image.to(precise)
        model: Any = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, self.first_noise
        x = self.state
        for i in tqdm(self.steps, disable=disable_pbar):
            time, next_time = self.times[i : i + 2]
            denoised = model(x, x.new_full((x.shape[0],), time), denoise_mask=denoise_mask, **extra_args)
            if self.ode:
                x = x - (time - next_time) * ((x - denoised) / time)
            else:
                x = (1 - next_time) * denoised + next_time * self.draw(x.shape, x.device).to(precise)
            if callback is not None:
                callback(i, denoised.float(), x.float(), len(self.times) - 1)
        self.state = x
        return x


def with_prompt_cancel(model: ModelPatcher) -> ModelPatcher:
    """A clone of the MODEL that ends a cancelled run inside a step: steps of a minute are common."""
    clone = model.clone()
    clone.set_model_patch(prompt_cancel(), "double_block")
    return clone


def sample(
    high: ModelPatcher,
    low: ModelPatcher | None,
    positive: list,
    latent: torch.Tensor,
    times: list[float],
    generator: torch.Generator,
    mask: torch.Tensor | None = None,
    ode: bool = False,
    seed: int = 0,
    callback: Callable[[int, torch.Tensor, torch.Tensor, int], None] | None = None,
    quiet: bool = False,
) -> torch.Tensor:
    """Both experts over `times`: steps before the first time below 0.9 with `high`, the rest with `low`.

    `high`, `low`: MODELs; without `low`, `high` does all steps. `positive` is a CONDITIONING. `latent` [B, 16, T, h, w]:
    zeros, or what to start from; `mask` is its noise mask. All noise is `generator`'s; `seed` is only what patches are told.
    `callback(step, denoised, x, steps)`. Returns the latent, float32.
    """
    sampler = RCMSampler(times, generator, ode)
    steps = len(times) - 1
    switch = high_noise_steps(times[:-1]) if low is not None else steps
    sigmas = torch.tensor(times)
    out = latent
    for model, sampler.steps in ((high, range(switch)), (low, range(switch, steps))):
        if model is not None and sampler.steps:
            guider = comfy.samplers.CFGGuider(with_prompt_cancel(model))
            guider.set_conds(positive, [])
            guider.set_cfg(1.0)
            empty = torch.zeros_like(latent)
            out = guider.sample(
                empty, latent, sampler, sigmas, denoise_mask=mask, callback=callback, disable_pbar=quiet, seed=seed
            )
    return out
