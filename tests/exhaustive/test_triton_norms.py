"""The GPU kernel of the norms against torch's, in Triton's interpreter."""

import pytest
import torch
from torch.nn.functional import layer_norm, rms_norm

pytest.importorskip("triton")


@pytest.mark.parametrize("width", [128, 1536])
def test_kernel_rounds_the_float32_norm_once(width):
    from steadydancer.turbo.triton_norms import norm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator().manual_seed(width)
    # Not bfloat16: the interpreter cuts it off instead of rounding.
    x = (3 + torch.randn(2, 5, width, generator=random)).half().to(device)
    weight, bias = (torch.randn(width, generator=random).to(device) for _ in range(2))
    for found, exact in (
        (norm(x, weight, None, 1e-6), rms_norm(x.float(), (width,), weight, 1e-6)),
        (norm(x, weight, bias, 1e-6), layer_norm(x.float(), (width,), weight, bias, 1e-6)),
    ):
        assert found.dtype == x.dtype and found.shape == x.shape
        torch.testing.assert_close(found.float(), exact.half().float(), rtol=2**-10, atol=1e-5)
        assert (found == exact.half()).float().mean() > 0.99
    columns = x.expand(2, 5, width).transpose(0, 1)
    assert torch.equal(norm(columns, weight, None, 1e-6), norm(columns.contiguous(), weight, None, 1e-6))
