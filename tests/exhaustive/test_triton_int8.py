"""The GPU kernels of the 8-bit product against its exact emulation."""

import pytest
import torch
from steadydancer.quant import int8


def normal(*shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(scope="module")
def kernels():
    """The GPU kernels: compiled where there is a GPU, else run by Triton's interpreter."""
    pytest.importorskip("triton")
    from steadydancer.quant import triton_int8

    return triton_int8


@pytest.mark.parametrize("rows, k, n", [(70, 256, 384), (1, 128, 128), (260, 384, 200)])
# Not bfloat16: the interpreter cuts it off instead of rounding.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gpu_kernels_equal_the_emulation(kernels, rows, k, n, dtype):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, bias = normal(2, rows, k, seed=4, dtype=dtype).to(device), normal(n, seed=5, dtype=dtype).to(device)
    x[0, 0, :3] = torch.tensor([0.5, 1.5, -9.0])
    codes, scale = (t.to(device) for t in int8.quantise(normal(n, k, seed=6)))
    found = kernels.quantise(x.flatten(0, 1))
    expected = int8.quantise(x.flatten(0, 1))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    for b in (bias, None):
        got, wanted = kernels.linear(x, codes, scale, b), int8.linear(x, codes, scale, b)
        if device == "cpu":
            assert torch.equal(got, wanted)
        else:  # the sum over blocks is fused there
            torch.testing.assert_close(got, wanted, rtol=2**-7, atol=1e-4)
