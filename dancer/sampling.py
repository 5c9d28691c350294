"""The published schedule and solver: shifted flow sigmas and UniPC of order 2.

UniPC: Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models" (2023), with
data prediction and B(h) = exp(h) − 1 ("bh2"), on the flow path x = (1 − σ)·data + σ·noise.
"""

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from tqdm.auto import trange


def steadydancer_sigmas(steps: int, shift: float) -> torch.Tensor:
    """The official sigmas: float32 [steps + 1], from just under 1 down to 0.

    σ = shift·u / (1 + (shift − 1)·u) with u evenly from 0.999 towards 0.
    """
    u = torch.linspace(0.999, 0.0, steps + 1, dtype=torch.float64)[:-1]
    sigmas = shift * u / (1.0 + (shift - 1.0) * u)
    return torch.cat((sigmas, sigmas.new_zeros(1))).float()


def log_snr(sigma: torch.Tensor) -> torch.Tensor:
    """λ = log((1 − σ)/σ) of float64 sigmas; infinite at 0, minus infinite at 1."""
    return torch.log1p(-sigma) - torch.log(sigma)


def corrector_weights(h: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Weights of the older and of the newer difference quotient in the corrector of order 2 (eq. 9 of the paper).

    `h` is the step in λ, `ratio` that of the step before it over `h`, negative.
    """
    phi_1 = torch.expm1(-h)
    phi_2 = phi_1 / -h - 1.0
    phi_3 = phi_2 / -h - 0.5
    powers = torch.stack((torch.ones(2, dtype=h.dtype), torch.stack((ratio, torch.ones_like(ratio)))))
    return torch.linalg.solve(powers, torch.stack((phi_2, 2.0 * phi_3)) / phi_1)


def advance(x: torch.Tensor, sigma: torch.Tensor, next_sigma: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """Exactly from sigma to next_sigma, float64 scalars, if the clean video were `data` all the way."""
    decay = torch.expm1(log_snr(sigma) - log_snr(next_sigma))
    return float(next_sigma / sigma) * x - float((1.0 - next_sigma) * decay) * data


def sample_flow_unipc(
    model: Any,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """Flow UniPC, order 2: one evaluation a step, which also corrects the step before. `x` [B, 16, T, h, w].

    Where the run starts from noise alone, that noise is the state: ComfyUI hands it over multiplied by the first
    sigma, 0.9998 in the official schedule, by which the published loop does not multiply.
    """
    extra_args = {} if extra_args is None else extra_args
    if torch.count_nonzero(model.latent_image) == 0:
        x = x / sigmas[0]
    exact = sigmas.cpu().double()  # in this order, and plain numbers after it: MPS, XPU and DirectML have no float64
    lambdas = log_snr(exact)
    steps = len(sigmas) - 1
    order = 1
    # The state at the last sigma, and what the model took for the clean video there; each is set before it is used.
    start = newest = older = x

    for i in trange(steps, disable=disable):
        denoised = model(x, sigmas[i].expand(x.shape[0]), **extra_args)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})

        if i > 0:
            if order == 2:
                h = lambdas[i] - lambdas[i - 1]
                ratio = (lambdas[i - 2] - lambdas[i - 1]) / h
                old, new = corrector_weights(h, ratio)
                data = newest + float(old / ratio) * (older - newest) + float(new) * (denoised - newest)
            else:
                data = 0.5 * (newest + denoised)
            x = advance(start, exact[i - 1], exact[i], data)
        start, newest, older = x, denoised, newest

        # The first and the last step are of order 1, and so is the second where sigma starts at 1, with infinite λ.
        order = 2 if 0 < i < steps - 1 and torch.isfinite(lambdas[i - 1]) else 1
        data = newest
        if order == 2:
            ratio = (lambdas[i - 1] - lambdas[i]) / (lambdas[i + 1] - lambdas[i])
            data = newest + float(0.5 / ratio) * (older - newest)
        x = advance(start, exact[i], exact[i + 1], data)
    return x


def flow_unipc_sampler() -> comfy.samplers.KSAMPLER:
    """The solver as ComfyUI's SAMPLER."""
    return comfy.samplers.KSAMPLER(sample_flow_unipc)
