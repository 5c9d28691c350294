"""The tiny files are what core's own loaders take for the real ones."""

import pytest
import torch
from support import tiny


def test_vae_encodes_and_decodes(comfyui):
    import comfy.sd
    import comfy.utils

    (path,) = tiny.provide(comfyui / "models", "vae/wan_2.1_vae.safetensors")
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    frames = torch.rand(17, 64, 96, 3, generator=torch.Generator().manual_seed(1))
    latent = vae.encode(frames)
    assert latent.shape == (1, 16, 5, 8, 12)
    decoded = vae.decode(latent)
    assert decoded.shape == (1, 17, 64, 96, 3)
    assert decoded.std() > 0.02, "a flat picture would hide mistakes"


def test_umt5_has_a_real_tokenizer(comfyui):
    import comfy.sd

    (path,) = tiny.provide(comfyui / "models", "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    sizes = {"num_layers": 1, "vocab_size": 64, "d_ff": 64, "num_heads": 4}
    clip = comfy.sd.load_clip(
        [str(path)], clip_type=comfy.sd.CLIPType.WAN, model_options={"umt5xxl_model_config": sizes}
    )
    dance = clip.encode_from_tokens_scheduled(clip.tokenize("a woman dances"))[0][0]
    fox = clip.encode_from_tokens_scheduled(clip.tokenize("the lazy fox, 镜头晃动"))[0][0]
    assert dance.shape[-1] == 4096
    assert torch.isfinite(dance).all() and not torch.equal(dance, fox)


@pytest.mark.own_process
def test_clip_vision_encodes(comfyui):
    import comfy.clip_vision

    (path,) = tiny.provide(comfyui / "models", "clip_vision/clip_vision_h.safetensors")
    output = comfy.clip_vision.load(str(path)).encode_image(torch.rand(1, 64, 96, 3), crop=False)
    assert output.penultimate_hidden_states.shape == (1, 257, 1280)
    assert torch.isfinite(output.penultimate_hidden_states).all()


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "fp8_e4m3fn_scaled"])
def test_steadydancer_files_are_recognised(comfyui, name):
    import comfy.sd

    (path,) = tiny.provide(comfyui / "models", f"diffusion_models/Wan21_SteadyDancer_{name}.safetensors")
    model = comfy.sd.load_diffusion_model(str(path))
    assert type(model.model).__name__ == "SteadyDancerBase"


def test_plain_wan_file_is_still_plain(comfyui):
    import comfy.sd

    (path,) = tiny.provide(comfyui / "models", "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors")
    model = comfy.sd.load_diffusion_model(str(path))
    assert type(model.model).__name__ == "WAN21"
