"""8-bit layers on a GPU: quantise the input, multiply on its 8-bit units, scale every 128 products.

The numbers are those of int8.py; only the sum over blocks of 128 may be fused (one rounding less).
Import needs Triton; TRITON_INTERPRET=1 runs the kernels on the CPU, for tests.
"""

import torch
import triton
import triton.language as tl

BLOCK = tl.constexpr(128)
SMALLEST = tl.constexpr(1e-8)
# Adding and subtracting 1.5 · 2²³ rounds a small float32 to the nearest whole number, ties to even.
ROUND = tl.constexpr(12582912.0)
ROWS_TOGETHER = 8  # tiles of neighbouring rows that share the weights in the cache


@triton.jit
def quantise_kernel(x, codes, scale, rows, K):
    """One program a tile of 128×128 numbers: its scale, and its numbers as int8. x, codes [rows, K]."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = row[:, None] * K + column[None, :]
    inside = row[:, None] < rows
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    amax = tl.maximum(tl.max(tl.max(tl.abs(values), 1), 0), SMALLEST)
    rounded = values * tl.div_rn(128.0, amax) + ROUND - ROUND
    rounded = tl.minimum(tl.maximum(rounded, -128.0), 127.0)
    tl.store(codes + at, rounded.to(tl.int8), mask=inside)
    tl.store(scale + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), amax / 128.0)


@triton.jit
def linear_kernel(
    a, a_scale, b, b_scale, bias, out, M, N, K: tl.constexpr, HAS_BIAS: tl.constexpr, TOGETHER: tl.constexpr
):  # fmt: skip
    """One program a tile of 128×128 results. a [M, K], b [N, K] int8 with a scale a tile; bias [N], out [M, N]."""
    m_tiles, n_tiles, k_tiles = tl.cdiv(M, BLOCK), tl.cdiv(N, BLOCK), K // BLOCK
    program = tl.program_id(0)
    first = program // (TOGETHER * n_tiles) * TOGETHER
    group = tl.minimum(m_tiles - first, TOGETHER)
    tile_m = first + program % (TOGETHER * n_tiles) % group
    tile_n = program % (TOGETHER * n_tiles) // group
    m = tile_m.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    n = tile_n.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, BLOCK)
    a_at = a + m[:, None] * K + k[None, :]
    b_at = b + n[None, :] * K + k[:, None]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for step in range(k_tiles):
        left = tl.load(a_at + step * BLOCK, mask=m[:, None] < M, other=0)
        right = tl.load(b_at + step * BLOCK, mask=n[None, :] < N, other=0)
        both = tl.load(a_scale + tile_m * k_tiles + step) * tl.load(b_scale + tile_n * k_tiles + step)
        total += tl.dot(left, right, out_dtype=tl.int32).to(tl.float32) * both
    result = total.to(out.dtype.element_ty)
    if HAS_BIAS:
        added = tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
        result = (result.to(tl.float32) + added[None, :]).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * N + n[None, :], result, mask=(m[:, None] < M) & (n[None, :] < N))


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8.quantise for contiguous x [rows, K] on a GPU; K is a multiple of 128."""
    rows, k = x.shape
    tiles = triton.cdiv(rows, BLOCK.value), k // BLOCK.value
    codes = torch.empty_like(x, dtype=torch.int8)
    scale = torch.empty(tiles, dtype=torch.float32, device=x.device)
    # A product fused with the sum that rounds it would round once, where the published quantiser rounds twice.
    quantise_kernel[tiles](x, codes, scale, rows, k, num_warps=8, enable_fp_fusion=False)
    return codes, scale


def linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """int8.linear on a GPU: x [..., K] in bfloat16 or float16, K a multiple of 128."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    (m, k), n = rows.shape, len(codes)
    x_codes, x_scale = quantise(rows)
    out = x.new_empty(m, n)
    grid = (triton.cdiv(m, BLOCK.value) * triton.cdiv(n, BLOCK.value),)
    linear_kernel[grid](
        x_codes, x_scale, codes, scale, out if bias is None else bias, out, m, n, k,
        HAS_BIAS=bias is not None, TOGETHER=ROWS_TOGETHER, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out.view(*x.shape[:-1], n)
