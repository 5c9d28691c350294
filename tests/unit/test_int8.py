"""The published 8-bit arithmetic against loops over single numbers."""

import math

import numpy as np
import pytest
import torch
from steadydancer.quant import int8


def quantised_by_loops(x):
    """The definition, one number at a time; numpy's float32 rounds as the published code does."""
    rows, k = x.shape
    codes = np.zeros((rows, k), np.int8)
    scales = np.zeros((math.ceil(rows / 128), math.ceil(k / 128)), np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            tile = x[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
            amax = max(np.float32(1e-8), max(abs(value) for value in tile.flat))
            scales[i, j] = amax / np.float32(128)
            for r, row in enumerate(tile):
                for c, value in enumerate(row):
                    nearest = round(float(np.float32(value * (np.float32(128) / amax))))  # ties to even
                    codes[128 * i + r, 128 * j + c] = min(127, max(-128, nearest))
    return codes, scales


CASES = {
    "even": (256, 256),
    "ragged rows": (200, 128),
    "one row": (1, 384),
    "ragged columns": (130, 200),
}


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_the_quantiser_equals_loops(shape):
    x = normal(*shape)
    codes, scale = int8.quantise(x)
    expected = quantised_by_loops(x.numpy())
    assert np.array_equal(codes.numpy(), expected[0]) and np.array_equal(scale.numpy(), expected[1])


def test_the_largest_number_saturates_and_the_smallest_does_not():
    x = torch.zeros(128, 128)
    x[0, 0], x[0, 1], x[5, 5] = 3.0, -3.0, 1.5
    codes, scale = int8.quantise(x)
    assert (codes[0, 0], codes[0, 1], codes[5, 5], scale) == (127, -128, 64, 3 / 128)


def test_ties_go_to_the_even_number():
    x = torch.zeros(1, 128)
    x[0, :5] = torch.tensor([128.0, 0.5, 1.5, 2.5, -0.5])
    assert int8.quantise(x)[0][0, :5].tolist() == [127, 0, 2, 2, 0]


def test_a_block_of_zeros_stays_zero():
    codes, scale = int8.quantise(torch.zeros(128, 256))
    assert not codes.any() and torch.equal(scale, torch.full((1, 2), 1e-8 / 128))
    assert int8.quantise(torch.zeros(0, 128))[0].shape == (0, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dequantising_is_code_times_scale_rounded_once(dtype):
    codes, scale = int8.quantise(normal(200, 256))
    out = int8.dequantise(codes, scale, torch.empty(200, 256, dtype=dtype))
    for n, k in ((0, 0), (127, 128), (128, 127), (199, 255)):
        assert out[n, k] == (codes[n, k].float() * scale[n // 128, k // 128]).to(dtype)
    error = (out.float() - normal(200, 256)).norm() / normal(200, 256).norm()
    assert error < 0.012


def linear_by_loops(x, codes, scale, bias):
    """Whole-number sums over 128 inputs; scaled and summed in float32; rounded; bias added in the input's type."""
    rows = x.flatten(0, -2)
    x_codes, x_scale = (t.numpy() for t in int8.quantise(rows))
    w, s = codes.numpy().astype(np.int64), scale.numpy()
    out = np.zeros((len(rows), len(w)), np.float32)
    for m in range(len(rows)):
        for n in range(len(w)):
            for b in range(s.shape[1]):
                part = slice(128 * b, 128 * b + 128)
                products = int(x_codes[m, part].astype(np.int64) @ w[n, part])
                out[m, n] += np.float32(products) * (x_scale[m // 128, b] * s[n // 128, b])
    return (torch.from_numpy(out).to(x.dtype) + bias).view(*x.shape[:-1], len(w))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_product_equals_loops_to_the_bit(dtype):
    """Two samples of 70 rows: the first block of 128 rows straddles them."""
    x, bias = normal(2, 70, 384, seed=1, dtype=dtype), normal(140, seed=2, dtype=dtype)
    codes, scale = int8.quantise(normal(140, 384, seed=3))
    assert torch.equal(int8.linear(x, codes, scale, bias), linear_by_loops(x, codes, scale, bias))
