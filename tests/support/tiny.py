"""Tiny weights in the published layouts, written as ordinary files. No tensor is stored: each follows from its name.

The recipe is that of tests/golden/README.md. `provide` puts files of any name into a model folder; what is in them is
decided by folder and name, as a user would expect it.
"""

import fnmatch
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from steadydancer.loaders.download.places import record
from steadydancer.quant import int8
from steadydancer.tools import comfyui

from . import GOLDEN
from .pose_nets import write_detector, write_pose_net

POSE_KEYS = ("condition_embedding_", "patch_embedding_fuse", "patch_embedding_ref_c")
FP8 = torch.float8_e4m3fn
CLIP_VISION_FILE = "clip-vit-h-random-fp16.safetensors"


def z(name: str, shape: Iterable[int]) -> np.ndarray:
    """The standard normal float32 values that belong to a name."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)


def weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One float32 tensor by the recipe."""
    values = z(key, shape)
    is_scale = key.endswith("gamma") or (key.endswith(".weight") and ("norm" in key or ".bn" in key))
    if is_scale or key in ("img_emb.proj.0.weight", "img_emb.proj.4.weight"):
        values = 1 + 0.1 * values
    elif len(shape) >= 2 and not key.endswith(("modulation", ".bias")):
        values = values / np.float32(np.sqrt(prod(shape[1:])))
    else:
        values = 0.1 * values
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return tensor.half() if "proj_l" in key else tensor


def shapes(keys_file: str) -> dict[str, tuple[int, ...]]:
    """Key → shape of a `*.keys.tsv` of tests/golden."""
    lines = (GOLDEN / keys_file).read_text("utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line.strip())
    return {row[0]: tuple(map(int, row[1].split(","))) for row in rows}


@lru_cache
def weights(keys_file: str) -> dict[str, torch.Tensor]:
    """All tensors of a layout. The dictionary is shared: copy it before changing it."""
    return {key: weight(key, shape) for key, shape in shapes(keys_file).items()}


def recipe_input(name: str, seed: int, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    """An input of the golden runs."""
    return torch.from_numpy(z(f"in.{name}:{seed}", shape) * np.float32(scale))


def write_steadydancer(path: Path, dtype: str = "fp32") -> Path:
    """A SteadyDancer file: fp32, fp16 and bf16 throughout, or `fp8_scaled` in Kijai's layout."""
    tensors = weights("steadydancer_tiny.keys.tsv")
    return write(path, scaled_fp8(tensors) if dtype == "fp8_scaled" else cast(tensors, dtype))


def write_wan_i2v(path: Path, dtype: str = "fp16") -> Path:
    """A plain Wan 2.1 I2V file: the same tensors without the pose's."""
    tensors = weights("steadydancer_tiny.keys.tsv")
    return write(path, cast({key: t for key, t in tensors.items() if not key.startswith(POSE_KEYS)}, dtype))


def write_wan_t2v(path: Path, dtype: str = "fp16") -> Path:
    """A plain Wan 2.1 T2V file: no image in its input, no image encoder's keys and values."""
    tensors = weights("steadydancer_tiny.keys.tsv")
    skipped = ("img_emb.", *POSE_KEYS)
    kept = {key: t for key, t in tensors.items() if not key.startswith(skipped) and "_img." not in key}
    kept["patch_embedding.weight"] = kept["patch_embedding.weight"][:, :16]
    return write(path, cast(kept, dtype))


def turbowan(name: str, dtype: str = "bf16") -> dict[str, torch.Tensor]:
    """A TurboWan model in the published layout: norms float32, an expert `low` other than `high`, `a14b` with the input
    of image to video, `quant` with 8-bit layers in the blocks."""
    seed = "low." if "low" in name else ""
    tensors = {}
    for key, shape in shapes("turbowan_t2v_tiny.keys.tsv").items():
        if key == "patch_embedding.weight" and "a14b" in name:
            shape = (shape[0], 36 * 4)
        tensor = weight(key, shape) if not seed else weight(key, shape) + 0.1 * weight(seed + key, shape)
        tensors[key] = tensor if "norm" in key else cast({key: tensor}, dtype)[key]
    if "quant" not in name:
        return tensors
    for key in [key for key in tensors if key.startswith("blocks.") and key.endswith(".weight")]:
        if tensors[key].ndim == 2 and "proj_l" not in key:
            codes, scale = int8.quantise(tensors.pop(key))
            tensors |= {f"{key.removesuffix('weight')}int8_weight": codes, f"{key.removesuffix('weight')}scale": scale}
    return tensors


def write_turbowan(path: Path, dtype: str = "bf16") -> Path:
    """A pickled TurboWan file; its name says which."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(turbowan(path.name.lower(), dtype), path)
    return path


def cast(tensors: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    return {key: tensor.to(kind) for key, tensor in tensors.items()}


def scaled_fp8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Linear weights as float8 with `<layer>.scale_weight`, embeddings of video and pose in float32, the rest in half."""
    out = {"scaled_fp8": torch.zeros(2, dtype=FP8)}  # two: as published, products in 16 bits
    for key, tensor in tensors.items():
        if key.startswith(("patch_embedding", "condition_embedding_")):
            out[key] = tensor
        elif key.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().max().reshape(1) / torch.finfo(FP8).max
            out[key] = (tensor / scale).to(FP8)
            out[key.removesuffix("weight") + "scale_weight"] = scale
        else:
            out[key] = tensor.half()
    return out


def write_vae(path: Path) -> Path:
    """A Wan 2.1 VAE of width 8: 16 latent channels, a quarter of the frames, an eighth of the size."""
    return write(path, dict(weights("wan_vae_tiny.keys.tsv")))


def write_lora(path: Path, rank: int = 4) -> Path:
    """A LoRA on the self attention of the tiny network's blocks, in the usual names."""
    tensors = {}
    for key, shape in shapes("steadydancer_tiny.keys.tsv").items():
        if ".self_attn." in key and key.endswith(".weight") and len(shape) == 2:
            layer = "diffusion_model." + key.removesuffix(".weight")
            tensors[f"{layer}.lora_down.weight"] = weight(f"{layer}.lora_down.weight", (rank, shape[1]))
            tensors[f"{layer}.lora_up.weight"] = weight(f"{layer}.lora_up.weight", (shape[0], rank))
            tensors[f"{layer}.alpha"] = torch.tensor(float(rank))
    return write(path, tensors)


def write_umt5(path: Path) -> Path:
    """One UMT5 block with a vocabulary of 64 and a real SentencePiece tokenizer. `TinyUMT5Loader` reads it."""
    width, heads, feed_forward = 4096, 4, 64
    block = "encoder.block.0.layer"
    layers = {
        "shared.weight": (64, width),
        f"{block}.0.SelfAttention.q.weight": (64 * heads, width),
        f"{block}.0.SelfAttention.k.weight": (64 * heads, width),
        f"{block}.0.SelfAttention.v.weight": (64 * heads, width),
        f"{block}.0.SelfAttention.o.weight": (width, 64 * heads),
        f"{block}.0.SelfAttention.relative_attention_bias.weight": (32, heads),
        f"{block}.0.layer_norm.weight": (width,),
        f"{block}.1.DenseReluDense.wi_0.weight": (feed_forward, width),
        f"{block}.1.DenseReluDense.wi_1.weight": (feed_forward, width),
        f"{block}.1.DenseReluDense.wo.weight": (width, feed_forward),
        f"{block}.1.layer_norm.weight": (width,),
        "encoder.final_layer_norm.weight": (width,),
        # ComfyUI knows an XXL encoder by the rows of its last block, and reads nothing else of it.
        "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1),
    }
    tensors = {key: weight(key, shape).half() for key, shape in layers.items()}
    tensors["spiece_model"] = torch.frombuffer(bytearray(tokenizer_model()), dtype=torch.uint8)
    return write(path, tensors)


def tokenizer_model() -> bytes:
    """A SentencePiece model with 64 pieces, trained on a few lines."""
    import io

    import sentencepiece

    lines = [
        "a woman in a red dress dances on an empty stage while the camera stays still",
        "the quick brown fox jumps over the lazy dog",
        "pack my box with five dozen liquor jugs, 0123456789",
        "static, blurred details, subtitles, style, worst quality, low quality",
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=model,
        vocab_size=64,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def write_clip_vision(path: Path) -> Path:
    """CLIP-ViT-H with random fp16 values: 1.3 GB, made once in the cache folder and linked from there."""
    cached = comfyui.cache_folder() / CLIP_VISION_FILE
    if not cached.exists():
        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for key, shape in clip_vision_shapes().items():
            values = torch.randn(shape, generator=generator)
            if "norm" in key or "layrnorm" in key:
                values = (1 if key.endswith("weight") else 0) + 0.1 * values
            elif len(shape) >= 2:
                values = values / prod(shape[1:]) ** 0.5
            else:
                values = 0.1 * values
            tensors[key] = values.half()
        write(cached, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in (os.symlink, os.link, shutil.copyfile):
        try:
            place(cached, path)
            return path
        except OSError:
            continue
    raise OSError(f"{cached.name} could not be put into {path.parent}")


def clip_vision_shapes() -> dict[str, tuple[int, ...]]:
    width, inner, patch = 1280, 5120, 14
    out = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (257, width),
        "visual_projection.weight": (1024, width),
    }
    norms = ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    linears = {}
    for i in range(32):
        layer = f"vision_model.encoder.layers.{i}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        linears |= {f"{layer}.self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        linears |= {f"{layer}.mlp.fc1": (inner, width), f"{layer}.mlp.fc2": (width, inner)}
    out |= {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    for name, shape in linears.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return out


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Saves safetensors in one step, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, metadata={"format": "pt"})
    os.replace(temporary, path)
    return path


# What a file holds, by the first pattern that fits "folder/name". Add your own family here.
MAKERS = [
    ("diffusion_models/*steadydancer*fp8*", lambda path: write_steadydancer(path, "fp8_scaled")),
    ("diffusion_models/*steadydancer*fp32*", lambda path: write_steadydancer(path, "fp32")),
    ("diffusion_models/*steadydancer*bf16*", lambda path: write_steadydancer(path, "bf16")),
    ("diffusion_models/*steadydancer*.safetensors", lambda path: write_steadydancer(path, "fp16")),
    ("diffusion_models/*turbowan*fp32*.pth", lambda path: write_turbowan(path, "fp32")),
    ("diffusion_models/*turbowan*.pth", write_turbowan),
    ("diffusion_models/*i2v*", write_wan_i2v),
    ("diffusion_models/*t2v*", write_wan_t2v),
    ("vae/*", write_vae),
    ("text_encoders/*umt5*", write_umt5),
    ("clip_vision/*", write_clip_vision),
    ("loras/*", write_lora),
    ("detection/*yolox*.onnx", write_detector),
    ("detection/dw-*.onnx", write_pose_net),
]


def provide(models: Path, *names: str) -> list[Path]:
    """Makes "folder/file name" in the model folder where it is not there yet, and returns the paths.

    Raises ValueError for a name that no maker knows.
    """
    paths = []
    for name in names:
        path = models / name
        if not path.exists():
            maker = next((make for pattern, make in MAKERS if fnmatch.fnmatch(name.lower(), pattern)), None)
            if maker is None:
                raise ValueError(f"No tiny file is known for models/{name}. Add a maker to tests/support/tiny.py.")
            maker(path)
            record(path, "", trusted=True)  # or the loaders would fetch the published file of this name
        paths.append(path)
    return paths


def write_t5_base(path: Path) -> Path:
    """A text encoder of T5-base's shapes with random values: what is small enough here that core loads it by itself."""
    width, heads, feed_forward = 768, 12, 3072
    shapes = {"shared.weight": (32128, width), "encoder.final_layer_norm.weight": (width,)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
    for i in range(12):
        layer = f"encoder.block.{i}.layer"
        shapes |= {f"{layer}.0.SelfAttention.{name}.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{layer}.{j}.layer_norm.weight": (width,) for j in (0, 1)}
        shapes[f"{layer}.1.DenseReluDense.wi.weight"] = (feed_forward, width)
        shapes[f"{layer}.1.DenseReluDense.wo.weight"] = (width, feed_forward)
    generator = torch.Generator().manual_seed(0)
    tensors = {key: (0.02 * torch.randn(shape, generator=generator)).half() for key, shape in shapes.items()}
    return write(path, tensors)
