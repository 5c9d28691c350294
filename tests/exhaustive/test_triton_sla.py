"""The GPU kernels of sparse-linear attention against the plain ones, in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton")


@pytest.mark.parametrize("length", [1, 64, 130, 500])
@pytest.mark.parametrize("linear", [True, False], ids=["linear", "sparse only"])
@pytest.mark.parametrize("pinned", [0, 2])
def test_kernels_agree_with_the_reference(length, linear, pinned):
    from steadydancer.turbo import attention, triton_sla

    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, 3, 128, generator=random).half().to(device) for _ in range(3))
    projection = None
    if linear:
        projection = tuple(torch.randn(shape, generator=random).half().to(device) for shape in ((128, 128), (128,)))
    pinned = min(pinned, -(-length // attention.BLOCK_K))
    ours = triton_sla.sla(q, k, v, projection, 0.3, pinned)
    reference = attention.sla(
        *(x.float() for x in (q, k, v)), projection and tuple(p.float() for p in projection), 0.3, pinned=pinned
    )
    assert (ours.float() - reference).abs().max() <= 4e-3 * reference.abs().max()


def test_strides_of_a_packed_projection_are_followed():
    from steadydancer.turbo import attention, triton_sla

    device = "cuda" if torch.cuda.is_available() else "cpu"
    packed = torch.randn(1, 200, 3, 2, 128, generator=torch.Generator().manual_seed(0)).half().to(device)
    q, k, v = packed.unbind(2)
    ours = triton_sla.sla(q, k, v, None, 0.5)
    reference = attention.sla(*(x.float() for x in (q, k, v)), None, 0.5)
    assert (ours.float() - reference).abs().max() <= 4e-3 * reference.abs().max()


@pytest.mark.parametrize("length", [1, 70, 300])
def test_the_linear_parts_sums_are_those_of_torch(length, monkeypatch):
    """Softmax over the channels, products with the values, over all tokens, in several parts."""
    from steadydancer.turbo import triton_sla

    monkeypatch.setattr(triton_sla, "TOKENS", 128)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    packed = torch.randn(2, length, 3, 2, 128, generator=torch.Generator().manual_seed(0)).half().to(device)
    k, v = packed.unbind(3)
    state, total = triton_sla.linear_state(k, v)
    features = k.double().softmax(-1)
    assert state.dtype == total.dtype == k.dtype
    torch.testing.assert_close(
        state.double(), torch.einsum("blhd,blhe->bhde", features, v.double()), rtol=2e-3, atol=2e-3
    )
    torch.testing.assert_close(total.double(), features.sum(1), rtol=2e-3, atol=1e-5)
