"""The GPU kernels in bfloat16, the only type that TurboDiffusion uses on a card, in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("compiled kernels run in bfloat16 by themselves there", allow_module_level=True)

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    from support import interpreted_bf16

    interpreted_bf16.install(monkeypatch)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


def relative(ours, exact):
    return ((ours.double() - exact.double()).norm() / exact.double().norm()).item()


def test_bfloat16_is_rounded_as_torch_rounds_it():
    from support.interpreted_bf16 import bits

    x = torch.cat(
        (torch.randn(10_000), torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 3e38, torch.inf, torch.nan]))
    )
    assert torch.equal(torch.from_numpy(bits(x.numpy())).view(BF16).nan_to_num(7), x.to(BF16).nan_to_num(7))


@pytest.mark.parametrize("length", [1, 64, 127, 130, 257])
@pytest.mark.parametrize("linear", [True, False], ids=["linear", "sparse only"])
def test_attention(length, linear):
    """Against float32, no further off than torch's own path in bfloat16, which rounds at the same places."""
    from steadydancer.turbo import attention, triton_sla

    q, k, v = (random(1, length, 2, 128, seed=i) for i in range(3))
    projection = (random(128, 128, seed=4), random(128, seed=5)) if linear else None
    exact = attention.sla(*(x.float() for x in (q, k, v)), projection and tuple(p.float() for p in projection), 1.0)
    ours, torchs = (function(q, k, v, projection, 1.0) for function in (triton_sla.sla, attention.sla))
    assert ours.dtype == BF16
    error, usual = relative(ours, exact), relative(torchs, exact)
    print(f"{length} tokens: ours {error:.1e}, torch in bfloat16 {usual:.1e}")
    assert error < max(1.5 * usual, 4e-3)


@pytest.mark.parametrize(("length", "topk", "pinned"), [(129, 0.5, 1), (300, 0.34, 2), (257, 0.01, 0)])
def test_the_same_blocks_are_chosen(length, topk, pinned, monkeypatch):
    """Means are rounded as published before they are compared: a choice that differs is a wrong picture."""
    from steadydancer.turbo import attention, triton_sla

    q, k, v = (random(1, length, 2, 128, seed=i) for i in range(3))
    means = triton_sla.block_means(q, torch.zeros(1, 2, 128, dtype=BF16), attention.BLOCK_Q)
    expected = attention.block_means(q.transpose(1, 2), attention.BLOCK_Q)
    assert means.dtype == BF16 and (means == expected).float().mean() > 0.99
    ours = triton_sla.sla(q, k, v, None, topk, pinned)
    exact = attention.sla(q, k, v, None, topk, pinned=pinned)
    assert relative(ours, exact) < 5e-3


@pytest.mark.parametrize("length", [1, 70, 300])
def test_sums_of_the_linear_part(length):
    from steadydancer.turbo import triton_sla

    k, v = random(2, length, 3, 128), random(2, length, 3, 128, seed=1)
    state, total = triton_sla.linear_state(k, v)
    features = k.float().softmax(-1).to(BF16).double()
    assert state.dtype == total.dtype == BF16
    assert relative(state, torch.einsum("blhd,blhe->bhde", features, v.double())) < 4e-3
    assert relative(total, features.sum(1)) < 4e-3


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 128, 128), (130, 256, 5), (257, 384, 200)])
@pytest.mark.parametrize("bias", [True, False])
def test_8_bit_layers(rows, k, n, bias):
    from steadydancer.quant import int8, triton_int8

    x, added = random(rows, k, seed=1), random(n, seed=2) if bias else None
    codes, scale = int8.quantise(torch.randn(n, k, generator=torch.Generator().manual_seed(3)))
    found, expected = triton_int8.quantise(x), int8.quantise(x)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert torch.equal(triton_int8.linear(x, codes, scale, added), int8.linear(x, codes, scale, added))


@pytest.mark.parametrize("width", [5, 1536, 5120])
def test_norms_round_once(width):
    from steadydancer.turbo.triton_norms import norm
    from torch.nn.functional import layer_norm, rms_norm

    x = (3 + random(7, width)).to(BF16)
    weight, bias = random(width, seed=1).float(), random(width, seed=2).float()
    for found, exact in (
        (norm(x, weight, None, 1e-6), rms_norm(x.float(), (width,), weight, 1e-6)),
        (norm(x, weight, bias, 1e-6), layer_norm(x.float(), (width,), weight, bias, 1e-6)),
    ):
        assert found.dtype == BF16 and (found == exact.to(BF16)).float().mean() > 0.99
        torch.testing.assert_close(found.float(), exact.to(BF16).float(), rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("number", [6, 8, 10, 11, 12, 13, 14, 20, 23])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_unpacking(number, count):
    from steadydancer.quant import triton_kernels
    from steadydancer.quant.blocks import BLOCKS, dequantise

    kind = BLOCKS[number]
    packed = torch.randint(
        0, 256, (count, kind.bytes), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
    )
    packed.view(torch.float16).nan_to_num_(0, 1, -1).clamp_(-1, 1)
    ours, exact = (torch.empty(count * kind.weights, dtype=BF16) for _ in range(2))
    assert torch.equal(triton_kernels.dequantise(packed, number, ours), dequantise(packed, kind, exact))
