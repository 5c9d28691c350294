"""Every block type against gguf-py's dequantisation, to the bit."""

import gguf
import numpy as np
import pytest
import torch
from steadydancer.quant.blocks import BLOCKS, CHUNK, dequantise

HALVES = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,), "IQ4_NL": (0,),
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
}  # fmt: skip


def random_blocks(kind, count, seed=0):
    """Random bytes, in which only the float16 numbers are kept from being infinite or none."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, kind.bytes), dtype=np.uint8)
    for byte in HALVES[kind.name]:
        bits = rng.integers(0, 1 << 16, count).astype(np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] &= 0x83FF
        blocks[:, byte : byte + 2] = bits[:, None].view(np.uint8)
    return blocks


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
