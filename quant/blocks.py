"""GGUF block types: how many weights a block holds, in how many bytes, and what they are as numbers.

Source: the ggml block layouts (ggml-common.h), written as index formulas: every function computes all weights of a row of
blocks with whole-tensor arithmetic in float32, `d · scale` first, as gguf-py does, so the two agree to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .types import PACKED

# Weights that are worked on at a time: small enough for a core's cache, and one float32 copy of them is all the
# temporary memory there is.
CHUNK = {"cpu": 1 << 19, "other": 1 << 24}
CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class BlockType:
    """`weights` numbers in `bytes` bytes. `unpack(b, w)` fills float32 w [n, weights] from b [n, bytes]."""

    name: str
    weights: int
    bytes: int
    unpack: Callable[[torch.Tensor, torch.Tensor], None]


def dequantise(packed: torch.Tensor, kind: BlockType, out: torch.Tensor) -> torch.Tensor:
    """Fills `out`, float32, float16 or bfloat16, contiguous, from uint8 blocks of `kind`, and returns it.

    The numbers are computed in float32 and rounded once.
    """
    blocks = packed.reshape(-1, kind.bytes)
    target = out.view(-1, kind.weights)
    step = CHUNK["cpu" if packed.device.type == "cpu" else "other"] // kind.weights
    direct = out.dtype == torch.float32
    scratch = None if direct else torch.empty(min(step, len(blocks)), kind.weights, device=packed.device)
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        rows = target[start : start + step]
        w = rows if direct else scratch[: len(part)]
        kind.unpack(part, w)
        if not direct:
            rows.copy_(w)
    return out


def half(b: torch.Tensor, byte: int) -> torch.Tensor:
    """The float16 at an even byte of each block, as float32 [n, 1]."""
    return b.view(torch.float16)[:, byte // 2 : byte // 2 + 1].float()


def nibbles(b: torch.Tensor, byte: int) -> torch.Tensor:
    """The 32 4-bit numbers from `byte` on, low halves first, uint8 [n, 32]."""
    q = b.new_empty(len(b), 2, 16)
    q[:, 0] = q[:, 1] = b[:, byte : byte + 16]
    q[:, 0] &= 15
    q[:, 1] >>= 4
    return q.view(-1, 32)


def q8_0(b, w):
    w.copy_(b[:, 2:].view(torch.int8))
    w.mul_(half(b, 0))


def q4_0(b, w):
    w.copy_(nibbles(b, 2).sub_(8).view(torch.int8))
    w.mul_(half(b, 0))


def q4_1(b, w):
    w.copy_(nibbles(b, 4))
    w.mul_(half(b, 0)).add_(half(b, 2))


def fifth_bits(b: torch.Tensor, byte: int) -> torch.Tensor:
    """Bit j of the 32-bit word at `byte` as 16 or 0, uint8 [n, 32]."""
    every = torch.arange(256, device=b.device)[:, None] >> torch.arange(8, device=b.device)
    eights = ((every & 1) << 4).to(torch.uint8).view(torch.int64)  # for every byte its eight bits as eight bytes
    index = b[:, byte : byte + 4].to(torch.int32).flatten()
    return eights[:, 0].index_select(0, index).view(torch.uint8).view(-1, 32)


def fives(b: torch.Tensor, high: int, low: int) -> torch.Tensor:
    """The 32 5-bit numbers, uint8 [n, 32]: fifth bits at byte `high`, the others at `low`."""
    return nibbles(b, low).bitwise_or_(fifth_bits(b, high))


def q5_0(b, w):
    w.copy_(fives(b, 2, 6).sub_(16).view(torch.int8))
    w.mul_(half(b, 0))


def q5_1(b, w):
    w.copy_(fives(b, 4, 8))
    w.mul_(half(b, 0)).add_(half(b, 2))


def codebook_pairs(device: torch.device) -> torch.Tensor:
    """For every byte the codebook values of its low and its high half, int8 [256, 2]."""
    values = torch.tensor(CODEBOOK, dtype=torch.int8, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack((values[byte & 15], values[byte >> 4]), 1)


def from_codebook(q: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Looks 4-bit numbers up: q [n, s, 16] bytes into w [n, s, 2, 16]. Returns w."""
    low, high = codebook_pairs(q.device).unbind(1)
    index = q.to(torch.int32).flatten()
    w[:, :, 0] = low.index_select(0, index).view(q.shape)
    w[:, :, 1] = high.index_select(0, index).view(q.shape)
    return w


def iq4_nl(b, w):
    from_codebook(b[:, None, 2:], w.view(-1, 1, 2, 16))
    w.mul_(half(b, 0))


def iq4_xs(b, w):
    n = len(b)
    eight = torch.arange(8, device=b.device)
    low = (b[:, 4:8, None] >> torch.tensor([0, 4], dtype=torch.uint8, device=b.device)).view(n, 8) & 15
    high = (b.view(torch.int16)[:, 1:2] >> (2 * eight).to(torch.int16)) & 3
    scale = half(b, 0) * ((high << 4 | low) - 32)
    from_codebook(b[:, 8:].view(n, 8, 16), w.view(n, 8, 2, 16)).mul_(scale[:, :, None, None])


def pairs(q: torch.Tensor) -> torch.Tensor:
    """The 2-bit numbers of 64 bytes [n, 64] as uint8 [n, 2, 4, 32]."""
    q = q.contiguous().view(-1, 2, 32)
    out = q.new_empty(len(q), 2, 4, 32)
    for g in range(4):  # a shift of everything and a copy are several times as fast as a shift into strided places
        out[:, :, g] = q >> 2 * g
    return out.bitwise_and_(3)


def single_bits(q: torch.Tensor, place: int) -> torch.Tensor:
    """Bit j of 32 bytes [n, 32], moved to bit `place`, as uint8 [n, 8 (j), 32]."""
    q = q.contiguous()
    out = q.new_empty(len(q), 8, 32)
    for j in range(8):
        out[:, j] = q << place - j if j < place else q >> j - place
    return out.bitwise_and_(1 << place)


def halves(q: torch.Tensor, run: int) -> torch.Tensor:
    """The 4-bit numbers of 128 bytes [n, 128], low halves of `run` bytes before their high halves, as uint8 [n, 256]."""
    q = q.contiguous().view(len(q), -1, run)
    out = q.new_empty(len(q), 128 // run, 2, run)
    out[:, :, 0] = q
    out[:, :, 1] = q >> 4
    return out.bitwise_and_(15).view(-1, 256)


def q2_k(b, w):
    n = len(b)
    sub = w.view(n, 16, 16)
    w.view(n, 2, 4, 32).copy_(pairs(b[:, 16:80]))
    sub.mul_((half(b, 80) * (b[:, :16] & 15))[:, :, None]).sub_((half(b, 82) * (b[:, :16] >> 4))[:, :, None])


def q3_k(b, w):
    n = len(b)
    low, high = b[:, 96:104], b[:, 104:108]
    scale = torch.cat((low & 15, low >> 4), 1).view(n, 4, 4)
    shift = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=b.device)
    scale = (scale | ((high[:, None] >> shift[:, None]) & 3) << 4).view(n, 16)
    # the high bit stands for 4: set, nothing is taken off
    q = pairs(b[:, 32:96]).bitwise_or_(single_bits(b[:, :32], 2).view(n, 2, 4, 32))
    w.view(n, 2, 4, 32).copy_(q.sub_(4).view(torch.int8))
    w.view(n, 16, 16).mul_((half(b, 108) * (scale.view(torch.int8) - 32))[:, :, None])


def scales_and_minima(b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What Q4_K and Q5_K multiply with and take off in each of the 8 parts of a block, float32 [n, 8, 1]."""
    first, second, third = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = torch.cat((first & 63, (third & 15) | (first >> 6) << 4), 1)
    minimum = torch.cat((second & 63, (third >> 4) | (second >> 6) << 4), 1)
    return (half(b, 0) * scale)[:, :, None], (half(b, 2) * minimum)[:, :, None]


def q4_k(b, w):
    n = len(b)
    scale, minimum = scales_and_minima(b)
    w.copy_(halves(b[:, 16:], 32))
    w.view(n, 8, 32).mul_(scale).sub_(minimum)


def q5_k(b, w):
    n = len(b)
    scale, minimum = scales_and_minima(b)
    w.copy_(halves(b[:, 48:], 32).bitwise_or_(single_bits(b[:, 16:48], 4).view(n, 256)))
    w.view(n, 8, 32).mul_(scale).sub_(minimum)


def q6_k(b, w):
    n = len(b)
    q = pairs(b[:, 128:192]).bitwise_left_shift_(4).view(n, 256).bitwise_or_(halves(b[:, :128], 64))
    w.copy_(q.view(torch.int8).sub_(32))
    w.view(n, 16, 16).mul_((half(b, 208) * b[:, 192:208].view(torch.int8))[:, :, None])


# By ggml's type number.
PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
UNPACK = {
    "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0, "Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k,
    "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs,
}  # fmt: skip
BLOCKS = {number: BlockType(*sizes, UNPACK[sizes[0]]) for number, sizes in PACKED.items()}
BY_NAME = {kind.name: kind for kind in BLOCKS.values()}
