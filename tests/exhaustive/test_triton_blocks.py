"""The GPU kernels of every block type against gguf-py's dequantisation, to the bit."""

import gguf
import numpy as np
import pytest
import torch
from steadydancer.quant.blocks import BLOCKS
from support.random_blocks import random_blocks


@pytest.fixture(scope="module")
def kernels():
    """The GPU kernels: compiled where there is a GPU, else run by Triton's interpreter."""
    pytest.importorskip("triton")
    from steadydancer.quant import triton_kernels

    if not torch.cuda.is_available():
        triton_kernels.TILE = 1 << 18  # the interpreter pays for each program, not for each weight
    return triton_kernels


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "IQ4_NL", "IQ4_XS"])
def test_gpu_kernels_agree_to_the_bit(kernels, name):
    number = next(number for number, kind in BLOCKS.items() if kind.name == name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = BLOCKS[number]
    blocks = torch.from_numpy(random_blocks(kind, 10_000, seed=1))
    expected = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType(number))
    out = kernels.dequantise(blocks.to(device), number, torch.empty(10_000, kind.weights, device=device)).cpu()
    assert np.array_equal(out.numpy().view(np.uint32), expected.view(np.uint32))
    rounded = torch.empty(10_000, kind.weights, dtype=torch.float16, device=device)
    assert torch.equal(kernels.dequantise(blocks.to(device), number, rounded).cpu(), out.half())
