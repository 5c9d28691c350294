"""Random blocks of every type, which make finite numbers."""

import numpy as np
from steadydancer.quant.blocks import BlockType

HALVES = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,), "IQ4_NL": (0,),
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
}  # fmt: skip


def random_blocks(kind: BlockType, count: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, bytes of a block]: random bytes, in which only the float16 numbers are kept from being infinite or none."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, kind.bytes), dtype=np.uint8)
    for byte in HALVES[kind.name]:
        bits = rng.integers(0, 1 << 16, count).astype(np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] &= 0x83FF
        blocks[:, byte : byte + 2] = bits[:, None].view(np.uint8)
    return blocks
