"""Unpacking on a GPU in one pass: each program reads the bytes of a run of blocks and writes their weights.

The formulas are those of blocks.py, for one weight at a time. Products and sums are not fused, so the result is the same to
the bit. Import needs Triton; TRITON_INTERPRET=1 runs the kernels on the CPU, for tests.
"""

import torch
import triton
import triton.language as tl

from ..formats.ggml_types import NUMBERS
from .blocks import BLOCKS, CODEBOOK

TILE = 1024
# The codebook's sixteen values plus 128 as the bytes of two numbers.
LOW_HALF = tl.constexpr(int.from_bytes(bytes(value + 128 for value in CODEBOOK[:8]), "little"))
HIGH_HALF = tl.constexpr(int.from_bytes(bytes(value + 128 for value in CODEBOOK[8:]), "little") - (1 << 64))


@triton.jit
def unpack_kernel(
    b, h, out, total, WEIGHTS: tl.constexpr, BYTES: tl.constexpr, UNPACK: tl.constexpr, TILE: tl.constexpr
):
    """One program writes TILE of the `total` weights. b and h are the blocks as bytes and as float16."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = i < total
    block = i // WEIGHTS
    j = (i % WEIGHTS).to(tl.int32)
    w = UNPACK(b + block * BYTES, h + block * (BYTES // 2), j, inside)
    tl.store(out + i, w.to(out.dtype.element_ty), mask=inside)


@triton.jit
def byte(b, at, inside):
    """Bytes at places, as int32; 0 where `inside` is not."""
    return tl.load(b + at, mask=inside, other=0).to(tl.int32)


@triton.jit
def half(h, at, inside):
    """Float16 numbers at places counted in halves, as float32."""
    return tl.load(h + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def signed(x):
    """int8 from its bits."""
    return (x ^ 128) - 128


@triton.jit
def codebook(n):
    """The value at a place in IQ4's codebook of 16 int8 numbers."""
    word = tl.where(n < 8, LOW_HALF, HIGH_HALF).to(tl.int64)
    return ((word >> ((n & 7) * 8).to(tl.int64)) & 255).to(tl.int32) - 128


@triton.jit
def q8_0(b, h, j, inside):
    """Weight j of a block: see blocks.py for what lies where; so for all types below."""
    return half(h, 0, inside) * signed(byte(b, 2 + j, inside)).to(tl.float32)


@triton.jit
def q5_0(b, h, j, inside):
    """Weight j of a block."""
    low = byte(b, 6 + (j & 15), inside) >> (4 * (j >> 4)) & 15
    high = byte(b, 2 + (j >> 3), inside) >> (j & 7) & 1
    return half(h, 0, inside) * ((low | high << 4) - 16).to(tl.float32)


@triton.jit
def iq4_nl(b, h, j, inside):
    """Weight j of a block."""
    n = byte(b, 2 + (j & 15), inside) >> (4 * (j >> 4)) & 15
    return half(h, 0, inside) * codebook(n).to(tl.float32)


@triton.jit
def iq4_xs(b, h, j, inside):
    """Weight j of a block."""
    s = j >> 5
    n = byte(b, 8 + 16 * s + (j & 15), inside) >> (4 * ((j >> 4) & 1)) & 15
    low = byte(b, 4 + (s >> 1), inside) >> (4 * (s & 1)) & 15
    high = (byte(b, 2 + 0 * j, inside) | byte(b, 3 + 0 * j, inside) << 8) >> (2 * s) & 3
    scale = half(h, 0, inside) * ((low | high << 4) - 32).to(tl.float32)
    return scale * codebook(n).to(tl.float32)


@triton.jit
def two_bits(b, start, j, inside):
    """Two bits of each of 256 weights, 128 in 32 bytes from `start` on."""
    return byte(b, start + 32 * (j >> 7) + (j & 31), inside) >> (2 * ((j >> 5) & 3)) & 3


@triton.jit
def q2_k(b, h, j, inside):
    """Weight j of a block."""
    s = byte(b, j >> 4, inside)
    scale = half(h, 40, inside) * (s & 15).to(tl.float32)
    return scale * two_bits(b, 16, j, inside).to(tl.float32) - half(h, 41, inside) * (s >> 4).to(tl.float32)


@triton.jit
def q3_k(b, h, j, inside):
    """Weight j of a block."""
    s = j >> 4
    low = byte(b, 96 + (s & 7), inside) >> (4 * (s >> 3)) & 15
    high = byte(b, 104 + (s & 3), inside) >> (2 * (s >> 2)) & 3
    scale = half(h, 54, inside) * ((low | high << 4) - 32).to(tl.float32)
    bit = byte(b, j & 31, inside) >> (j >> 5) & 1
    return scale * (two_bits(b, 32, j, inside) - 4 * (1 - bit)).to(tl.float32)


@triton.jit
def scale_and_minimum(b, h, s, inside):
    """Group s's scale and minimum of Q4_K and Q5_K: 6 bits each of twelve bytes, times a float16."""
    x = byte(b, 4 + s, inside)
    y = byte(b, 8 + s, inside)
    z = byte(b, 4 + (s & 3), inside)
    scale = tl.where(s < 4, x & 63, (y & 15) | (z >> 6) << 4)
    minimum = tl.where(s < 4, y & 63, (y >> 4) | (x >> 6) << 4)
    return half(h, 0, inside) * scale.to(tl.float32), half(h, 1, inside) * minimum.to(tl.float32)


@triton.jit
def q4_k(b, h, j, inside):
    """Weight j of a block."""
    scale, minimum = scale_and_minimum(b, h, j >> 5, inside)
    n = byte(b, 16 + 32 * (j >> 6) + (j & 31), inside) >> (4 * ((j >> 5) & 1)) & 15
    return scale * n.to(tl.float32) - minimum


@triton.jit
def q5_k(b, h, j, inside):
    """Weight j of a block."""
    scale, minimum = scale_and_minimum(b, h, j >> 5, inside)
    n = byte(b, 48 + 32 * (j >> 6) + (j & 31), inside) >> (4 * ((j >> 5) & 1)) & 15
    n |= (byte(b, 16 + (j & 31), inside) >> (j >> 5) & 1) << 4
    return scale * n.to(tl.float32) - minimum


@triton.jit
def q6_k(b, h, j, inside):
    """Weight j of a block."""
    g = (j >> 5) & 3
    low = byte(b, 64 * (j >> 7) + 32 * (g & 1) + (j & 31), inside) >> (4 * (g >> 1)) & 15
    high = two_bits(b, 128, j, inside)
    scale = half(h, 104, inside) * signed(byte(b, 192 + (j >> 4), inside)).to(tl.float32)
    return scale * ((low | high << 4) - 32).to(tl.float32)


KERNELS = {
    NUMBERS[name]: kernel
    for name, kernel in {
        "Q5_0": q5_0, "Q8_0": q8_0, "Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k,
        "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs,
    }.items()
}  # fmt: skip


def dequantise(packed: torch.Tensor, number: int, out: torch.Tensor) -> torch.Tensor:
    """blocks.dequantise for the types of KERNELS, on a GPU. `packed` is contiguous."""
    block = BLOCKS[number]
    total = out.numel()
    unpack_kernel[(triton.cdiv(total, TILE),)](
        packed,
        packed.view(-1).view(torch.float16),
        out,
        total,
        WEIGHTS=block.weights,
        BYTES=block.bytes,
        UNPACK=KERNELS[number],
        TILE=TILE,
        enable_fp_fusion=False,
    )
    return out
