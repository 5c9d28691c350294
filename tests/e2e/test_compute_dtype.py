"""GGUF and shards compute in the type that ComfyUI chooses for the same model in one safetensors file."""

import pytest
import torch
from support import tiny
from support.golden import Golden
from support.tiny_gguf import write_steadydancer_gguf

FLAGS = [None, "fp16_unet", "bf16_unet", "fp32_unet"]


@pytest.fixture(scope="module")
def files(comfyui):
    folder = comfyui / "models/diffusion_models"
    return {
        "Q8_0": [write_steadydancer_gguf(folder / "dtype-Q8_0.gguf", "Q8_0")],
        "F16": [write_steadydancer_gguf(folder / "dtype-F16.gguf", "F16")],
        "BF16": [write_steadydancer_gguf(folder / "dtype-BF16.gguf", "BF16")],
        "shards": shards(folder),
        "safetensors": [tiny.write_steadydancer(folder / "dtype.safetensors", "bf16")],
    }


def shards(folder):
    tensors = list(tiny.weights("steadydancer_tiny.keys.tsv").items())
    half = len(tensors) // 2
    parts = {"1": dict(tensors[:half]), "2": dict(tensors[half:])}
    return [tiny.write(folder / "shards" / f"part-{name}.safetensors", part) for name, part in parts.items()]


@pytest.fixture
def card(comfyui, monkeypatch):
    """ComfyUI's choice of a type as on a card that has both; the CPU computes in both, slowly."""
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "should_use_fp16", lambda *args, **kwargs: True)
    monkeypatch.setattr(mm, "should_use_bf16", lambda *args, **kwargs: True)


def load(paths):
    from steadydancer.loaders.build import load_diffusion

    return load_diffusion(paths)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "shards"])
def test_the_type_is_comfyuis_own(files, card, monkeypatch, kind, flag):
    from comfy.cli_args import args

    if flag:
        monkeypatch.setattr(args, flag, True)
    whole, model = load(files["safetensors"]), load(files[kind])
    assert model.model.get_dtype_inference() == whole.model.get_dtype_inference()
    wanted = {None: "float16", "fp16_unet": "float16", "bf16_unet": "bfloat16", "fp32_unet": "float32"}[flag]
    assert model.model.get_dtype_inference() == getattr(torch, wanted)


def test_packed_weights_may_be_kept_in_eight_bits_beside(files, card, monkeypatch):
    """`--fp8_e4m3fn-unet` is for weights that are numbers; packed ones stay as they are."""
    from comfy.cli_args import args

    monkeypatch.setattr(args, "fp8_e4m3fn_unet", True)
    model = load(files["Q8_0"])
    assert model.model.get_dtype_inference() == torch.float16
    assert torch.isfinite(velocity(model)).all()


def velocity(model):
    dtype, inputs = model.model.get_dtype_inference(), Golden().network_inputs()
    x = inputs.pop("x").to(dtype)
    inputs = {name: value.to(dtype) if torch.is_tensor(value) else value for name, value in inputs.items()}
    with torch.inference_mode():
        return model.model.diffusion_model(x, torch.full((1,), 731.0), **inputs).float()


def test_float16_keeps_what_a_files_bits_bought(files, card, monkeypatch):
    """The errors that the chooser's table speaks of: float16 adds next to nothing, bfloat16 as much as Q8_0 itself."""
    from comfy.cli_args import args

    exact = Golden().numbers["out.noise_pred"][None]
    errors = {}
    for flag in ("fp16_unet", "bf16_unet"):
        with monkeypatch.context() as patch:
            patch.setattr(args, flag, True)
            for kind in ("F16", "Q8_0"):
                error = (velocity(load(files[kind])) - exact).norm() / exact.norm()
                errors[kind, flag] = error.item()
                print(f"{kind} {flag}: {error.item():.3%}")
    assert errors["F16", "fp16_unet"] < 0.002 < errors["F16", "bf16_unet"]
    assert errors["Q8_0", "fp16_unet"] < 0.007 < errors["Q8_0", "bf16_unet"]
