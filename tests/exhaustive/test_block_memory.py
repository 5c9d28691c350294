"""What unpacking a layer of every block type needs beside the result."""

import pytest
import torch
from steadydancer.quant.blocks import BLOCKS, CHUNK, dequantise


@pytest.mark.parametrize("number", BLOCKS, ids=[kind.name for kind in BLOCKS.values()])
@pytest.mark.parametrize(("chunk", "weights"), [("cpu", 8_388_608), ("other", 5120 * 5120)])
def test_temporary_memory_does_not_grow_with_the_layer(number, chunk, weights, monkeypatch):
    """Beside the result no more than a few chunks: below 2 bytes a weight, in a GPU's chunks for the commonest layer."""
    monkeypatch.setitem(CHUNK, "cpu", CHUNK[chunk])
    kind = BLOCKS[number]
    packed = torch.zeros(weights // kind.weights, kind.bytes, dtype=torch.uint8)
    out = torch.empty(weights, dtype=torch.bfloat16)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        dequantise(packed, kind, out)
    level = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    assert 0 < peak < 2 * out.numel()
