"""GGUF files for tests: a writer of the container, and round-to-nearest quantisers for every block type.

gguf-py can make no K-quants and no IQ4, so these do. They look for no better scale than the plain one: what they make is a
little worse than llama.cpp's and read by everybody; gguf-py's dequantiser is what the tests check them with.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from steadydancer.quant.blocks import BLOCKS, CODEBOOK

BY_NAME = {kind.name: kind for kind in BLOCKS.values()}
NUMBER = {"F32": 0, "F16": 1, "BF16": 30} | {kind.name: number for number, kind in BLOCKS.items()}
ALIGNMENT = 32


def write_gguf(
    path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict | None = None
) -> Path:
    """Writes tensors, name → (type name, shape with the fastest dimension last, data)."""
    metadata = {"general.architecture": "wan"} | (metadata or {})
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    head += [text(key) + value(entry) for key, entry in metadata.items()]
    offset = 0
    for name, (kind, shape, data) in tensors.items():
        head.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], NUMBER[kind], offset))
        offset += len(data) + -len(data) % ALIGNMENT
    header = b"".join(head)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for _, _, data in tensors.values():
            file.write(data + bytes(-len(data) % ALIGNMENT))
    return path


def text(words: str) -> bytes:
    raw = words.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(entry) -> bytes:
    if isinstance(entry, str):
        return struct.pack("<I", 8) + text(entry)
    if isinstance(entry, int):
        return struct.pack("<II", 4, entry)
    if isinstance(entry, list) and isinstance(entry[0], str):
        return struct.pack("<IIQ", 9, 8, len(entry)) + b"".join(map(text, entry))
    form = {"f": 6, "i": 5}[np.asarray(entry).dtype.kind]
    raw = np.asarray(entry, dtype={6: "<f4", 5: "<i4"}[form])
    return struct.pack("<IIQ", 9, form, len(raw)) + raw.tobytes()


def quantise(values: np.ndarray, kind: str) -> bytes:
    """float32 values, whose last dimension divides into blocks, as data of the type."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if kind == "F32":
        return values.tobytes()
    if kind == "F16":
        return values.astype(np.float16).tobytes()
    if kind == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    block = BY_NAME[kind]
    blocks = QUANTISERS[kind](values.reshape(-1, block.weights))
    assert blocks.dtype == np.uint8 and blocks.shape[1] == block.bytes
    return blocks.tobytes()


def half(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [n] as the two bytes of a float16, and as what these two bytes mean."""
    rounded = x.astype(np.float16)
    return rounded[:, None].view(np.uint8), rounded.astype(np.float32)[:, None]


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def nearest(x: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(np.rint(x), low, high).astype(np.int32)


def signed(x: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale [n] such that the number farthest from 0 becomes `low`, as ggml's reference does."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)[:, 0]
    return extreme / low, extreme


def joined(q: np.ndarray) -> np.ndarray:
    """32 4-bit numbers as 16 bytes, low halves first."""
    return (q[:, :16] | q[:, 16:] << 4).astype(np.uint8)


def bits32(high: np.ndarray) -> np.ndarray:
    return np.packbits(high.astype(bool), axis=1, bitorder="little")


def q8_0(x):
    raw, d = half(np.abs(x).max(1) / 127)
    return np.hstack((raw, nearest(divide(x, d), -127, 127).astype(np.int8).view(np.uint8)))


def q4_0(x):
    raw, d = half(signed(x, -8, 7)[0])
    return np.hstack((raw, joined(nearest(divide(x, d) + 8, 0, 15))))


def q4_1(x):
    raw, d = half((x.max(1) - x.min(1)) / 15)
    raw_m, m = half(x.min(1))
    return np.hstack((raw, raw_m, joined(nearest(divide(x - m, d), 0, 15))))


def q5_0(x):
    raw, d = half(signed(x, -16, 15)[0])
    q = nearest(divide(x, d) + 16, 0, 31)
    return np.hstack((raw, bits32(q >> 4), joined(q & 15)))


def q5_1(x):
    raw, d = half((x.max(1) - x.min(1)) / 31)
    raw_m, m = half(x.min(1))
    q = nearest(divide(x - m, d), 0, 31)
    return np.hstack((raw, raw_m, bits32(q >> 4), joined(q & 15)))


def in_codebook(x: np.ndarray) -> np.ndarray:
    """The index of the nearest value of IQ4's codebook."""
    values = np.array(CODEBOOK, np.float32)
    return np.searchsorted((values[1:] + values[:-1]) / 2, x).astype(np.int32)


def iq4_nl(x):
    raw, d = half(signed(x, -127, 113)[0])
    return np.hstack((raw, joined(in_codebook(divide(x, d)))))


def iq4_xs(x):
    parts = x.reshape(-1, 32)
    scale = signed(parts, -127, 113)[0].reshape(-1, 8)
    raw, d = half(signed(scale, -32, 31)[0])
    s = nearest(divide(scale, d), -32, 31)
    q = in_codebook(divide(parts, (d * s).reshape(-1, 1)))
    s = s + 32
    high = (s >> 4 << 2 * np.arange(8)).sum(1).astype(np.uint16)[:, None].view(np.uint8)
    low = (s[:, ::2] & 15 | (s[:, 1::2] & 15) << 4).astype(np.uint8)
    return np.hstack((raw, high, low, joined(q).reshape(-1, 128)))


def with_minima(x: np.ndarray, size: int, top: int, finest: int):
    """Numbers in parts of `size` as q·d·s − dmin·m, q up to `top`, s and m up to `finest`."""
    parts = x.reshape(len(x), -1, size)
    low = np.maximum(-parts.min(2), 0)
    scale = (parts.max(2) + low).clip(0) / top
    raw_d, d = half(scale.max(1) / finest)
    raw_m, dmin = half(low.max(1) / finest)
    s, m = nearest(divide(scale, d), 0, finest), nearest(divide(low, dmin), 0, finest)
    q = nearest(divide(parts + (dmin * m)[:, :, None], (d * s)[:, :, None]), 0, top)
    return raw_d, raw_m, s, m, q.reshape(len(x), -1)


def quarters(q: np.ndarray) -> np.ndarray:
    """256 2-bit numbers as 64 bytes."""
    q = q.reshape(-1, 2, 4, 32) << (2 * np.arange(4))[:, None]
    return q.sum(2).astype(np.uint8).reshape(-1, 64)


def six_bit_pairs(s: np.ndarray, m: np.ndarray) -> np.ndarray:
    """8 scales and 8 minima of 6 bits as 12 bytes."""
    first = s[:, :4] | s[:, 4:] >> 4 << 6
    second = m[:, :4] | m[:, 4:] >> 4 << 6
    return np.hstack((first, second, s[:, 4:] & 15 | (m[:, 4:] & 15) << 4)).astype(np.uint8)


def halves(q: np.ndarray) -> np.ndarray:
    q = q.reshape(-1, 4, 2, 32)
    return (q[:, :, 0] | q[:, :, 1] << 4).astype(np.uint8).reshape(-1, 128)


def q2_k(x):
    raw_d, raw_m, s, m, q = with_minima(x, 16, 3, 15)
    return np.hstack(((s | m << 4).astype(np.uint8), quarters(q), raw_d, raw_m))


def q4_k(x):
    raw_d, raw_m, s, m, q = with_minima(x, 32, 15, 63)
    return np.hstack((raw_d, raw_m, six_bit_pairs(s, m), halves(q)))


def q5_k(x):
    raw_d, raw_m, s, m, q = with_minima(x, 32, 31, 63)
    high = ((q >> 4).reshape(-1, 8, 32) << np.arange(8)[:, None]).sum(1).astype(np.uint8)
    return np.hstack((raw_d, raw_m, six_bit_pairs(s, m), high, halves(q & 15)))


def of_signed_parts(x: np.ndarray, low: int, finest: int):
    """Numbers in parts of 16 as q·d·s, q from `low` on, s from −`finest` on. Returns q − low and s."""
    parts = x.reshape(-1, 16)
    scale = signed(parts, low, -low - 1)[0].reshape(-1, 16)
    raw, d = half(signed(scale, -finest, finest - 1)[0])
    s = nearest(divide(scale, d), -finest, finest - 1)
    q = nearest(divide(parts, (d * s).reshape(-1, 1)), low, -low - 1) - low
    return raw, s, q.reshape(-1, 256)


def q3_k(x):
    raw, s, q = of_signed_parts(x, -4, 32)
    s = s + 32
    scales = np.hstack(
        (s[:, :8] & 15 | (s[:, 8:] & 15) << 4, (s.reshape(-1, 4, 4) >> 4 << (2 * np.arange(4))[:, None]).sum(1))
    )
    high = ((q >> 2).reshape(-1, 8, 32) << np.arange(8)[:, None]).sum(1)
    return np.hstack((high.astype(np.uint8), quarters(q & 3), scales.astype(np.uint8), raw))


def q6_k(x):
    raw, s, q = of_signed_parts(x, -32, 128)
    low = (q & 15).reshape(-1, 2, 2, 2, 32)
    low = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128).astype(np.uint8)
    return np.hstack((low, quarters(q >> 4), s.astype(np.int8).view(np.uint8), raw))


QUANTISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {kind: globals()[kind.lower()] for kind in BY_NAME}
