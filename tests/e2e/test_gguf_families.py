"""GGUF files of other families in their published layouts, through ComfyUI's own detection: no list of ours names them."""

import numpy as np
import pytest
import torch
from support import tiny
from support.gguf_writer import BY_NAME, quantise, write_gguf
from support.tiny_gguf import type_for

POSE = tiny.POSE_KEYS
IMAGE_ENCODER = ("img_emb.", "k_img", "v_img")
DIM = 256


def wan(*without, channels=36, latent=16):
    """Tensors of a tiny Wan: `channels` go in, `latent` come out, and keys with one of the words are left out."""
    tensors = {k: t for k, t in tiny.weights("steadydancer_tiny.keys.tsv").items() if not k.startswith(POSE)}
    tensors = {k: t for k, t in tensors.items() if not any(word in k for word in without)}
    shapes = {"patch_embedding.weight": (DIM, channels, 1, 2, 2)}
    shapes |= {"head.head.weight": (4 * latent, DIM), "head.head.bias": (4 * latent,)}
    return tensors | {key: tiny.weight(key, shape) for key, shape in shapes.items()}


# The published files: QuantStack's and city96's Wan 2.1 and 2.2, made by ComfyUI-GGUF's tools.
WAN = {
    "wan2.1-t2v": (wan(*IMAGE_ENCODER, channels=16), "WAN21_T2V"),
    "wan2.1-i2v": (wan(), "WAN21_I2V"),
    "Wan2.2-T2V-A14B-HighNoise": (wan(*IMAGE_ENCODER, channels=16), "WAN21_T2V"),
    "Wan2.2-I2V-A14B-LowNoise": (wan(*IMAGE_ENCODER), "WAN21_T2V"),
    "Wan2.2-TI2V-5B": (wan(*IMAGE_ENCODER, channels=48, latent=48), "WAN22_T2V"),
}


def unpacked(path):
    """What a GGUF file holds, all of it as float32."""
    from steadydancer.loaders.gguf import diffusion_tensors

    tensors = diffusion_tensors(path, torch.float32)
    return {k: t.dequantize() if hasattr(t, "_qdata") else t.float() for k, t in tensors.items()}


def core(tensors):
    """The same numbers in ComfyUI's own loader."""
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(tensors, model_options={"dtype": torch.float32})


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", WAN)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_wan_is_what_comfyui_takes_it_for(comfyui, tmp_path, name, prefix):
    from steadydancer.loaders.build import load_diffusion

    tensors, config = WAN[name]
    kinds = {key: type_for(key, tuple(t.shape), "Q4_K") for key, t in tensors.items()}
    stored = {k: (kinds[k], tuple(t.shape), quantise(t.numpy(), kinds[k])) for k, t in tensors.items()}
    path = write_gguf(tmp_path / f"{name}-Q4_K.gguf", {prefix + key: entry for key, entry in stored.items()})
    model = load_diffusion([path])
    assert type(model.model.model_config).__name__ == config
    network = model.model.diffusion_model
    assert hasattr(network.blocks[0].ffn[0].weight, "_qdata")
    channels = tensors["patch_embedding.weight"].shape[1]
    inputs = {"context": random(1, 1, 512, 4096), "clip_fea": random(2, 1, 257, 1280) if "i2v" in name else None}
    x, timestep = random(0, 1, channels, 2, 8, 8), torch.tensor([731.0])
    with torch.inference_mode():
        expected = core(unpacked(path)).model.diffusion_model(x, timestep, **inputs)
        found = network(x, timestep, **inputs)
    assert relative(found, expected) < 1e-5


def qwen_image_edit(seed=0):
    """One block of Qwen-Image-Edit 2511 in the sizes that ComfyUI's network has, 2-dimensional weights in Q4_K."""
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
    from comfy.ops import disable_weight_init

    with torch.device("meta"):
        network = QwenImageTransformer2DModel(num_layers=1, operations=disable_weight_init, dtype=torch.float32)
    rng = np.random.default_rng(seed)
    tensors = {"__index_timestep_zero__": ("F32", (0,), b"")}
    for key, parameter in network.state_dict().items():
        shape = tuple(parameter.shape)
        if key.startswith("transformer_blocks.") and len(shape) == 2:
            blocks = rng.integers(0, 256, (shape[0] * shape[1] // 256, BY_NAME["Q4_K"].bytes), dtype=np.uint8)
            blocks[:, :4] = np.array([2e-5, 7e-4], np.float16).view(np.uint8)  # numbers between −0.05 and 0.02
            tensors[key] = ("Q4_K", shape, blocks.tobytes())
        else:
            values = rng.standard_normal(shape, dtype=np.float32) * (shape[-1] ** -0.5 if len(shape) == 2 else 0.1)
            values += 1 if "norm" in key and key.endswith(".weight") and len(shape) == 1 else 0
            tensors[key] = (
                "BF16" if len(shape) == 2 else "F32",
                shape,
                quantise(values, "BF16" if len(shape) == 2 else "F32"),
            )
    return tensors


def test_qwen_image_edit_is_what_comfyui_takes_it_for(comfyui, tmp_path):
    from steadydancer.loaders.build import load_diffusion

    path = write_gguf(
        tmp_path / "qwen-image-edit-2511-Q4_K_M.gguf", qwen_image_edit(), {"general.architecture": "qwen_image"}
    )
    model = load_diffusion([path])
    assert type(model.model.model_config).__name__ == "QwenImage"
    network = model.model.diffusion_model
    assert network.default_ref_method == "index_timestep_zero", "an empty tensor marks a 2511"
    weight = network.transformer_blocks[0].attn.to_q.weight
    assert hasattr(weight, "_qdata") and weight.shape == (3072, 3072)
    inputs = {"context": random(1, 1, 7, 3584), "ref_latents": [random(2, 1, 16, 1, 8, 8)]}
    x, timestep = random(0, 1, 16, 1, 8, 8), torch.tensor([0.7])
    with torch.inference_mode():
        found = network(x, timestep, **inputs)
        expected = core(unpacked(path)).model.diffusion_model(x, timestep, **inputs)
    assert found.isfinite().all() and relative(found, expected) < 1e-4


def test_a_family_that_comfyui_does_not_know_is_refused_in_words(comfyui, tmp_path):
    from steadydancer.loaders.build import load_diffusion

    tensors = {"layers.0.weight": ("F32", (4, 4), bytes(64))}
    path = write_gguf(tmp_path / "new.gguf", tensors, {"general.architecture": "tomorrow"})
    with pytest.raises(ValueError, match="new.gguf is not a model that ComfyUI knows"):
        load_diffusion([path])
