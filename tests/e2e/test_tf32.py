"""What "float32" is on a card: convolutions round their inputs to TF32 there, torch's default from Ampere on, and ComfyUI's."""

import pytest
import torch
import torch.nn.functional as F
from support import tiny
from support.golden import Golden


def tf32(x: torch.Tensor) -> torch.Tensor:
    """x with 10 bits of mantissa, ties to even, as tensor cores take it."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def test_ten_bits_are_left():
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -3.14159274])
    assert tf32(x)[:4].tolist() == [1.0, 1 + 2**-10, 1.0, 1 + 2**-9]
    assert abs(tf32(x)[4] - x[4]) < 2**-9


def test_the_published_numbers_with_a_cards_convolutions(comfyui, tmp_path, monkeypatch):
    """The README's two figures: two parts in a million on the CPU, three in ten thousand with TF32."""
    from steadydancer.loaders import build

    model = build.load_one(str(tiny.write_steadydancer(tmp_path / "dancer.safetensors", "fp32")))
    golden = Golden()
    exact = golden.numbers["out.noise_pred"][None]

    def error():
        inputs = golden.network_inputs()
        x = inputs.pop("x")
        with torch.inference_mode():
            out = model.model.diffusion_model(x, torch.full((1,), 731.0), **inputs)
        return ((out - exact).norm() / exact.norm()).item()

    on_cpu = error()
    for name in ("conv2d", "conv3d"):
        plain = getattr(F, name)
        monkeypatch.setattr(F, name, lambda x, w, *rest, plain=plain: plain(tf32(x), tf32(w), *rest))
    on_card = error()
    print(f"float32 {on_cpu:.1e}, with TF32 convolutions {on_card:.1e}")
    assert on_cpu < 5e-6
    assert 1e-4 < on_card < 6e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a card's own")
def test_a_cards_own_convolutions_stay_within_the_figure():
    x, w = torch.randn(1, 16, 8, 32, 32, device="cuda"), torch.randn(32, 16, 1, 2, 2, device="cuda")
    exact = F.conv3d(x.double(), w.double())
    assert ((F.conv3d(x, w).double() - exact).norm() / exact.norm()).item() < 1e-3
