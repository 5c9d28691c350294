"""GGUF block types: how many weights a block holds, in how many bytes, and what they are as numbers.

Source: the ggml block layouts (ggml-common.h), written as index formulas over whole tensors in float32, `d · scale` first,
as gguf-py does, so the two agree to the bit. A weight is `number · scale + offset`: the integer `numbers` differ from weight
to weight, scale and offset are shared by a group of neighbours. Bytes are worked on eight at a time, as int64: a mask
removes what a shift brings over from the neighbouring byte; sums stay below 256, so none carries into the next.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..formats.ggml_types import PACKED, TORCH_NAMES

# Weights that are worked on at a time: few enough for a CPU's cache, enough that starting an operation costs little, on a
# GPU too. One float32 copy of them and their integers are the temporary memory, with the scales of the whole tensor.
CHUNK = {"cpu": 1 << 20, "other": 1 << 22}
CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


Factors = tuple[torch.Tensor, torch.Tensor | None]  # scale and offset of each group


@dataclass(frozen=True)
class BlockType:
    """`weights` numbers in `bytes` bytes.

    `numbers(b, w)` fills float32 w [n, weights] with the integers of b, uint8 [n, bytes]; `factors(b)` gives scale and
    offset of each group, float32 [n, groups, 1] (offset: None where there is none).
    """

    name: str
    weights: int
    bytes: int
    numbers: Callable[[torch.Tensor, torch.Tensor], None]
    factors: Callable[[torch.Tensor], Factors]


def dequantise(packed: torch.Tensor, kind: BlockType, out: torch.Tensor) -> torch.Tensor:
    """Fills `out`, float32, float16 or bfloat16, contiguous, and returns it.

    `packed`: uint8 blocks of `kind`, rows of bytes next to each other, at an even place in memory. The weights are computed
    in float32 and rounded once.
    """
    blocks = packed.reshape(-1, kind.bytes)
    target = out.view(-1, kind.weights)
    step = CHUNK["cpu" if packed.device.type == "cpu" else "other"] // kind.weights
    direct = out.dtype == torch.float32
    scratch = None if direct else torch.empty(min(step, len(blocks)), kind.weights, device=packed.device)
    scale, offset = kind.factors(blocks)
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        rows = target[part]
        w = rows if scratch is None else scratch[: len(rows)]
        kind.numbers(blocks[part], w)
        groups = w.view(len(w), scale.shape[1], -1).mul_(scale[part])
        if offset is not None:
            groups.add_(offset[part])
        if not direct:
            rows.copy_(w)
    return out


def every(byte: int) -> int:
    """An int64 of eight equal bytes."""
    return int.from_bytes(bytes([byte] * 8), "little", signed=True)


def cut(b: torch.Tensor, first: int, last: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """The bytes from `first` to before `last` of every block, several in a `dtype`: [n, (last - first) / its bytes].

    A copy, since a block may begin at any even place in memory, and int64 may not.
    """
    return b[:, first:last].clone(memory_format=torch.contiguous_format).view(dtype)


def planes(q: torch.Tensor, shifts: range, mask: int) -> torch.Tensor:
    """What `mask` leaves of every byte, shifted to the right by each of `shifts`: int64 [shifts, all of q]."""
    # made on the device, since a copy to a GPU waits for it
    shift = torch.arange(shifts.start, shifts.stop, shifts.step, device=q.device)[:, None]
    return (q.view(-1) >> shift).bitwise_and_(every(mask))


def beside(q: torch.Tensor, shifts: range) -> torch.Tensor:
    """Each row of q [n, k] once for each of `shifts`, shifted to the right by it: [n, shifts, k].

    Shifted one by one, since on a CPU a shift by a tensor is slow where rows are as short as here; for the long rows of
    `planes` it is the faster way.
    """
    return torch.stack([q >> shift for shift in shifts], 1)


def interleave(q: torch.Tensor, w: torch.Tensor, run: int, zero: int = 0) -> None:
    """Fills w with the bytes of planes, less `zero`: `run` of the first, `run` of the second, …, `run` of the first.

    Q4_0, whose run is 16: the low halves of a block's 16 bytes, their high halves, then those of the next block.
    """
    numbers = q.view(torch.uint8).sub_(zero).view(torch.int8) if zero else q.view(torch.uint8)
    out = w.view(-1, len(q), run)
    for i, plane in enumerate(numbers.view(len(q), -1, run)):
        out[:, i] = plane


def half(b: torch.Tensor, byte: int) -> torch.Tensor:
    """The float16 at an even byte of each block, as float32 [n, 1, 1]."""
    return b.view(torch.float16)[:, byte // 2, None, None].float()


def scale(b: torch.Tensor) -> Factors:
    """The float16 scale that a block begins with; no offset."""
    return half(b, 0), None


def scale_and_offset(b: torch.Tensor) -> Factors:
    """The float16 scale and offset that a block begins with."""
    return half(b, 0), half(b, 2)


def q8_0(b: torch.Tensor, w: torch.Tensor) -> None:
    """Scale, 32 × int8."""
    w.copy_(b[:, 2:].view(torch.int8))


def q4_0(b: torch.Tensor, w: torch.Tensor) -> None:
    """Scale, 32 × 4 bits in 16 bytes, less 8."""
    interleave(planes(cut(b, 2, 18), range(0, 8, 4), 15), w, 16, zero=8)


def q4_1(b: torch.Tensor, w: torch.Tensor) -> None:
    """Scale, offset, 32 × 4 bits in 16 bytes."""
    interleave(planes(cut(b, 4, 20), range(0, 8, 4), 15), w, 16)


def single_bits(b: torch.Tensor, byte: int) -> torch.Tensor:
    """The 32 bits from `byte` on, one in a byte: int64 [2, n · 2], bits 0 to 15 of all blocks before bits 16 to 31."""
    q = b[:, byte : byte + 4].view(-1, 2, 2).transpose(0, 1).contiguous().view(2, -1).long()
    q.mul_(every(1)).bitwise_and_(int.from_bytes(bytes(1 << i for i in range(8)), "little", signed=True))
    return q.add_(every(127)).bitwise_right_shift_(7).bitwise_and_(every(1))  # 127 carries any bit to the byte's last


def q5_0(b: torch.Tensor, w: torch.Tensor) -> None:
    """Scale, the fifth bits in 4 bytes, 32 × 4 bits in 16 bytes, less 16."""
    interleave(planes(cut(b, 6, 22), range(0, 8, 4), 15).add_(single_bits(b, 2), alpha=16), w, 16, zero=16)


def q5_1(b: torch.Tensor, w: torch.Tensor) -> None:
    """Scale, offset, the fifth bits in 4 bytes, 32 × 4 bits in 16 bytes."""
    interleave(planes(cut(b, 8, 24), range(0, 8, 4), 15).add_(single_bits(b, 4), alpha=16), w, 16)


def from_codebook(q: torch.Tensor, w: torch.Tensor) -> None:
    """Looks 4-bit numbers up: bytes q [m, 16] into w, the low halves of 16 bytes before their high halves."""
    values = torch.tensor(CODEBOOK, dtype=torch.int8, device=q.device)
    byte = torch.arange(256, device=q.device)
    index = q.to(torch.int32).flatten()
    out = w.view(-1, 2, 16)
    out[:, 0] = values[byte & 15].index_select(0, index).view(-1, 16)
    out[:, 1] = values[byte >> 4].index_select(0, index).view(-1, 16)


def iq4_nl(b: torch.Tensor, w: torch.Tensor) -> None:
    """Scale, 32 × 4 bits in 16 bytes, places in the codebook."""
    from_codebook(b[:, 2:], w)


def iq4_xs(b: torch.Tensor, w: torch.Tensor) -> None:
    """Eight groups of 32 × 4 bits, places in the codebook, after 8 bytes of scales."""
    from_codebook(b[:, 8:].reshape(-1, 16), w)


def iq4_xs_factors(b: torch.Tensor) -> Factors:
    """Eight 6-bit scales, less 32: the high 2 bits of all in a 16-bit number, the low 4 bits in four bytes."""
    eight = torch.arange(8, device=b.device)
    low = torch.stack((b[:, 4:8] & 15, b[:, 4:8] >> 4), 2).view(-1, 8)
    high = (b.view(torch.int16)[:, 1:2] >> (2 * eight).to(torch.int16)) & 3
    return half(b, 0) * ((high << 4 | low) - 32)[:, :, None], None


def q2_k(b: torch.Tensor, w: torch.Tensor) -> None:
    """Sixteen groups of 16 × 2 bits, after 16 bytes of scales."""
    interleave(planes(cut(b, 16, 80), range(0, 8, 2), 3), w, 32)


def q2_k_factors(b: torch.Tensor) -> Factors:
    """Sixteen bytes, a 4-bit scale below a 4-bit minimum in each, and a float16 for all of either."""
    scale, minimum = planes(cut(b, 0, 16), range(0, 8, 4), 15).view(torch.uint8).view(2, -1, 16, 1).float()
    return scale.mul_(half(b, 80)), minimum.mul_(-half(b, 82))


def q3_k(b: torch.Tensor, w: torch.Tensor) -> None:
    """Sixteen groups of 16 × 2 bits, after the third bits in 32 bytes."""
    high = planes(beside(cut(b, 0, 32), range(0, 8, 4)), range(4), 1)
    # the high bit stands for 4: set, nothing is taken off
    interleave(planes(cut(b, 32, 96), range(0, 8, 2), 3).add_(high, alpha=4), w, 32, zero=4)


def q3_k_factors(b: torch.Tensor) -> Factors:
    """Sixteen 6-bit scales, less 32, in twelve bytes: low 4 bits in the first eight, high 2 bits in the last four."""
    packed = cut(b, 96, 108, torch.int32)
    low, high = packed[:, :2], packed[:, 2:]
    scale = torch.cat((low, low >> 4), 1).bitwise_and_(0x0F0F0F0F)
    shift = torch.arange(0, 8, 2, dtype=torch.int32, device=b.device)
    scale.add_((high >> shift).bitwise_and_(0x03030303), alpha=16)
    return scale.view(torch.uint8).sub_(32).view(torch.int8)[:, :, None] * half(b, 108), None


def q4_k(b: torch.Tensor, w: torch.Tensor) -> None:
    """Eight groups of 32 × 4 bits, after 16 bytes of scales."""
    interleave(planes(cut(b, 16, 144), range(0, 8, 4), 15), w, 32)


def q4_k_factors(b: torch.Tensor) -> Factors:
    """Eight 6-bit scales and eight 6-bit minima in twelve bytes, worked on as int32: four bytes of all blocks at a time."""
    scale, minimum, rest = cut(b, 4, 16, torch.int32).unbind(1)
    first = torch.stack((scale, minimum))
    rest = torch.stack((rest, rest >> 4)).bitwise_and_(0x0F0F0F0F)
    last = rest.bitwise_or_((first >> 2).bitwise_and_(0x30303030))
    six_bits = torch.stack((first.bitwise_and_(0x3F3F3F3F), last), 2).view(torch.uint8)
    scale, minimum = six_bits[..., None].float()
    return scale.mul_(half(b, 0)), minimum.mul_(-half(b, 2))


def q5_k(b: torch.Tensor, w: torch.Tensor) -> None:
    """Eight groups of 32 × 4 bits, after 16 bytes of scales as in Q4_K and the fifth bits in 32 bytes."""
    high = planes(beside(cut(b, 16, 48), range(0, 8, 2)), range(2), 1)
    interleave(planes(cut(b, 48, 176), range(0, 8, 4), 15).add_(high, alpha=16), w, 32)


def q6_k(b: torch.Tensor, w: torch.Tensor) -> None:
    """Sixteen groups of 16: 4 bits each in 128 bytes, 2 more each in 64 bytes, less 32."""
    high = planes(beside(cut(b, 128, 192).view(-1, 4), range(0, 4, 2)), range(0, 8, 4), 3)
    interleave(planes(cut(b, 0, 128), range(0, 8, 4), 15).add_(high, alpha=16), w, 64, zero=32)


def q6_k_factors(b: torch.Tensor) -> Factors:
    """Sixteen int8 scales, and a float16 for all of them."""
    return b[:, 192:208].view(torch.int8)[:, :, None] * half(b, 208), None


# By ggml's type number.
PLAIN = {number: getattr(torch, name) for number, name in TORCH_NAMES.items()}
UNPACK = {
    "Q4_0": (q4_0, scale),
    "Q4_1": (q4_1, scale_and_offset),
    "Q5_0": (q5_0, scale),
    "Q5_1": (q5_1, scale_and_offset),
    "Q8_0": (q8_0, scale),
    "Q2_K": (q2_k, q2_k_factors),
    "Q3_K": (q3_k, q3_k_factors),
    "Q4_K": (q4_k, q4_k_factors),
    "Q5_K": (q5_k, q4_k_factors),
    "Q6_K": (q6_k, q6_k_factors),
    "IQ4_NL": (iq4_nl, scale),
    "IQ4_XS": (iq4_xs, iq4_xs_factors),
}
BLOCKS = {number: BlockType(*sizes, *UNPACK[sizes[0]]) for number, sizes in PACKED.items()}
