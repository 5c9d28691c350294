"""Norms with float32 weights in one pass over 16-bit tokens: torch would write float32 copies of them three times."""

import torch
import triton
import triton.language as tl


@triton.jit
def norm_kernel(x, weight, bias, out, width, eps, CENTRE: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row: RMS norm, or with CENTRE layer norm. Everything in float32, rounded once."""
    start = tl.program_id(0).to(tl.int64) * width
    lanes = tl.arange(0, BLOCK)
    inside = lanes < width
    values = tl.load(x + start + lanes, mask=inside, other=0.0).to(tl.float32)
    if CENTRE:
        values = tl.where(inside, values - tl.sum(values, 0) / width, 0.0)
    values = values / tl.sqrt(tl.sum(values * values, 0) / width + eps)
    values = values * tl.load(weight + lanes, mask=inside, other=0.0)
    if CENTRE:
        values += tl.load(bias + lanes, mask=inside, other=0.0)
    tl.store(out + start + lanes, values.to(out.dtype.element_ty), mask=inside)


def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """RMS norm of x [..., width], with a bias layer norm; `weight` and `bias` [width] are float32."""
    x = x.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    norm_kernel[(x.numel() // width,)](
        x, weight, weight if bias is None else bias, out, width, eps,
        CENTRE=bias is not None, BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return out
