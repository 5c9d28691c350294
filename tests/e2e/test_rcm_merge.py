"""rCM's difference on SteadyDancer's weights: the sum, what it leaves alone, and what it refuses."""

import pytest
import torch
from support import tiny, tiny_gguf


@pytest.fixture(scope="module")
def models(comfyui, tmp_path_factory):
    """SteadyDancer and Wan in bf16, and a Wan that differs by a thousandth: what a bf16 sum would lose."""
    from comfy.sd import load_diffusion_model_state_dict
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("merge")
    dancer = load_file(tiny.write_steadydancer(folder / "dancer.safetensors", "bf16"))
    plain = load_file(tiny.write_wan_t2v(folder / "wan.safetensors"))
    plain = {key: tensor.bfloat16() for key, tensor in plain.items()}
    tuned = {key: (tensor.float() * (1 + 2**-6)).bfloat16() for key, tensor in plain.items()}
    options = {"dtype": torch.bfloat16}
    return [load_diffusion_model_state_dict(dict(t), model_options=options) for t in (dancer, tuned, plain)]


def number_of(model, key):
    return model.model.diffusion_model.get_parameter(key).detach().clone()


def merged_weight(models, key, strength, low_vram):
    """The weight as ComfyUI computes it, when a model is loaded whole and when its layers are brought over one by one."""
    from comfy.lora import calculate_weight
    from comfy.model_patcher import LowVramPatch
    from steadydancer.turbo.merge import merge_rcm

    merged, key = merge_rcm(*models, strength), f"diffusion_model.{key}"
    weight = number_of(models[0], key.removeprefix("diffusion_model."))
    if low_vram:
        return LowVramPatch(key, merged.patches)(weight)
    return calculate_weight(merged.patches[key], weight.float(), key).to(weight.dtype)


@pytest.mark.parametrize("low_vram", [False, True], ids=["whole", "layer by layer"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("key", ["blocks.1.ffn.0.weight", "blocks.0.modulation", "head.head.bias"])
def test_the_sum_is_rounded_once(models, key, strength, low_vram):
    dancer, rcm, base = (number_of(model, key).double() for model in models)
    assert not torch.equal(rcm, base)
    exact = dancer + strength * (rcm - base)
    found = merged_weight(models, key, strength, low_vram)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.float().bfloat16())


def test_a_model_that_is_loaded_whole_on_a_gpu_is_one_step_off_at_most(models):
    """There the sum is float16 before it is rounded to bfloat16."""
    from comfy.lora import calculate_weight
    from steadydancer.turbo.merge import merge_rcm

    key = "blocks.1.ffn.0.weight"
    dancer, rcm, base = (number_of(model, key).double() for model in models)
    patches = merge_rcm(*models, 1.0).patches[f"diffusion_model.{key}"]
    found = calculate_weight(patches, dancer.half(), key).bfloat16().double()
    assert ((found - (dancer + rcm - base)).abs() <= 2**-8 * (dancer + rcm - base).abs() + 1e-7).all()


def test_the_pictures_and_the_poses_layers_are_left_alone(models):
    from steadydancer.turbo.merge import merge_rcm

    patched = [key.removeprefix("diffusion_model.") for key in merge_rcm(*models, 1.0).patches]
    everything = models[0].model.diffusion_model.state_dict()
    alone = set(everything) - set(patched)
    assert {key.split(".")[0] for key in alone} >= {"img_emb", "patch_embedding", "patch_embedding_fuse"}
    assert all("k_img" in key or "v_img" in key for key in alone if key.startswith("blocks."))
    assert not models[0].patches, "the model that was merged into is unchanged"


@pytest.mark.parametrize("kind", ["fp8", "gguf", "int8"])
def test_quantised_models_are_refused(models, tmp_path, kind):
    from steadydancer.loaders import build
    from steadydancer.loaders.turbo import load_turbo, prepared
    from steadydancer.turbo.merge import merge_rcm

    model, rcm, base = models
    if kind == "fp8":
        model = build.load_one(str(tiny.write_steadydancer(tmp_path / "dancer.safetensors", "fp8_scaled")))
    elif kind == "gguf":
        model = build.load_diffusion([tiny_gguf.write_steadydancer_gguf(tmp_path / "dancer.gguf", "Q8_0")])
    else:
        path = tiny.write_turbowan(tmp_path / "TurboWan2.1-T2V-14B-480P-quant.pth")
        path = prepared(path, lambda done, total: None, lambda: False, lambda text: None)
        rcm = load_turbo([path], "auto", None, None)[0][0]
    with pytest.raises(ValueError, match="needs unquantised weights"):
        merge_rcm(model, rcm, base, 1.0)
