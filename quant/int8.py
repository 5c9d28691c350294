"""8-bit layers as TurboDiffusion publishes them: one scale for every 128×128 weights, and for 128 rows × 128 inputs.

Source: the published quantiser and GEMM of TurboDiffusion (Apache-2.0), as formulas. Codes are x · 128/amax, so the largest
positive number of a block, 128, saturates to 127.
"""

import torch
from einops import rearrange
from torch.nn.functional import pad

BLOCK = 128
SMALLEST = 1e-8  # what a block of zeros has for its largest number


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, K] of any float type → codes int8 [rows, K] and scales float32 [⌈rows/128⌉, ⌈K/128⌉]."""
    rows, k = x.shape
    padded = pad(x.float(), (0, -k % BLOCK, 0, -rows % BLOCK))
    tiles = rearrange(padded, "(n a) (m b) -> n a m b", a=BLOCK, b=BLOCK)
    amax = tiles.abs().amax((1, 3)).clamp_(min=SMALLEST)
    codes = (tiles * (BLOCK / amax)[:, None, :, None]).round_().clamp_(-128, 127).to(torch.int8)
    return rearrange(codes, "n a m b -> (n a) (m b)")[:rows, :k].contiguous(), amax / BLOCK


def dequantise(codes: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Fills `out` [N, K] with codes · scale, each rounded once, and returns it."""
    n, k = codes.shape
    columns = scale.repeat_interleave(BLOCK, 1)[:, :k]
    whole = n // BLOCK
    out.copy_(codes)  # exact: 8 bits fit into every float type
    out[: whole * BLOCK].view(whole, BLOCK, k).mul_(columns[:whole, None])
    if n % BLOCK:
        out[whole * BLOCK :].mul_(columns[whole])
    return out


def linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [..., K] times the weight [N, K], with x quantised over 128 consecutive rows of its flattened form.

    To the bit what the published GEMM computes: sums of 128 products are whole numbers, their scaled sums float32, the
    result is rounded to x's type, and the bias is added in that type. For tests; `triton_int8` is the fast one.
    """
    rows = x.flatten(0, -2)
    x_codes, x_scale = quantise(rows)
    total = torch.zeros(len(rows), len(codes), device=x.device)
    x_scale, w_scale = (s.repeat_interleave(BLOCK, 0) for s in (x_scale, scale))
    for block, (a, b) in enumerate(zip(x_codes.split(BLOCK, 1), codes.split(BLOCK, 1))):
        products = a.float() @ b.float().t()  # at most 2²¹: exact in float32
        total += products * (x_scale[: len(a), None, block] * w_scale[None, : len(b), block])
    out = total.to(x.dtype)
    if bias is not None:
        out = out + bias.to(x.dtype)
    return out.view(*x.shape[:-1], len(codes))
