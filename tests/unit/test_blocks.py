"""Every block type against gguf-py's dequantisation, to the bit."""

import gguf
import numpy as np
import pytest
import torch
from steadydancer.quant.blocks import BLOCKS, CHUNK, dequantise
from support.random_blocks import random_blocks


@pytest.mark.parametrize("number", BLOCKS, ids=[kind.name for kind in BLOCKS.values()])
def test_ten_thousand_blocks_agree_to_the_bit(number):
    kind = BLOCKS[number]
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (kind.weights, kind.bytes)
    blocks = random_blocks(kind, 10_000)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(number))
    out = torch.empty(10_000, kind.weights)
    dequantise(torch.from_numpy(blocks), kind, out)
    # -0.0 and 0.0 count as different here
    assert np.array_equal(out.numpy().view(np.uint32), expected.view(np.uint32))
    for dtype in (torch.float16, torch.bfloat16):
        rounded = dequantise(torch.from_numpy(blocks), kind, torch.empty(10_000, kind.weights, dtype=dtype))
        assert torch.equal(rounded, out.to(dtype))


@pytest.mark.parametrize("number", BLOCKS, ids=[kind.name for kind in BLOCKS.values()])
def test_few_blocks_anywhere_in_memory(number, monkeypatch):
    """None, one, and chunks with one left over, from a place that is only even."""
    kind = BLOCKS[number]
    monkeypatch.setitem(CHUNK, "cpu", 2 * kind.weights)
    blocks = torch.from_numpy(random_blocks(kind, 5))
    expected = dequantise(blocks, kind, torch.empty(5, kind.weights))
    memory = torch.zeros(2 + blocks.numel(), dtype=torch.uint8)
    memory[2:] = blocks.flatten()
    moved = memory[2:].view(5, kind.bytes)
    for count in (0, 1, 5):
        assert torch.equal(
            dequantise(moved[5 - count :], kind, torch.empty(count, kind.weights)), expected[5 - count :]
        )
