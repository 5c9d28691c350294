"""Model files of other tools, broken ones and parts of split ones, chosen in the loaders; packed weights of the pose."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import tiny
from support.gguf_writer import NUMBER, quantise, write_gguf
from support.golden import Golden
from support.tiny_gguf import stored

KEYS = "steadydancer_tiny.keys.tsv"
POSE = ("condition_embedding_", "patch_embedding")


@pytest.fixture(scope="module")
def golden():
    return Golden()


@pytest.fixture
def folder(comfyui):
    """models/diffusion_models, emptied of what the test puts into it."""
    folder = comfyui / "models/diffusion_models"
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def half() -> dict[str, torch.Tensor]:
    return {key: value.half().contiguous() for key, value in tiny.weights(KEYS).items()}


def gguf(path: Path, keys, metadata=None) -> Path:
    tensors = {key: stored(key, tiny.weights(KEYS)[key].float().numpy(), "Q8_0") for key in keys}
    return write_gguf(path, tensors, metadata)


def choose(name: str):
    from steadydancer.nodes.loaders import SteadyDancerLoader

    return SteadyDancerLoader.execute(variant=name, step_distill=False).args[0]


def velocity(model, golden):
    inputs = golden.network_inputs()
    x = inputs.pop("x")
    with torch.inference_mode():
        return model.model.diffusion_model(x, torch.full((1,), 731.0), **inputs).float()


def error(model, golden) -> float:
    exact = golden.numbers["out.noise_pred"][None]
    return ((velocity(model, golden) - exact).norm() / exact.norm()).item()


def quanto(folder):
    tensors = {}
    for key, value in half().items():
        if key.startswith("blocks.") and key.endswith(".weight") and value.ndim == 2:
            tensors |= {f"{key}._data": value.to(torch.int8), f"{key}._scale": torch.ones(value.shape[0], 1)}
        else:
            tensors[key] = value
    save_file(tensors, folder / "odd.safetensors")


def without(folder, *names):
    save_file({key: value for key, value in half().items() if key not in names}, folder / "odd.safetensors")


def shard(folder, part: int):
    keys = sorted(tiny.weights(KEYS))
    save_file({key: half()[key] for key in keys[part::2]}, folder / "odd.safetensors")


def rotated_by_tomorrow(folder):
    described = torch.tensor(list(b'{"format": "int3_tomorrow"}'), dtype=torch.uint8)
    save_file(half() | {"blocks.0.ffn.0.comfy_quant": described}, folder / "odd.safetensors")


def rotated_by_another_pack(folder):
    described = torch.tensor(list(b'{"convrot": true, "per_row": true}'), dtype=torch.uint8)
    save_file(half() | {"blocks.0.ffn.0.comfy_quant": described}, folder / "odd.safetensors")


def of_another_size(folder):
    save_file(half() | {"text_embedding.0.weight": torch.zeros(16, 4096)}, folder / "odd.safetensors")


def without_5d(folder):
    gguf(folder / "odd.gguf", [key for key in tiny.weights(KEYS) if key != "patch_embedding.weight"])


def wrong_shape_noted(folder):
    gguf(folder / "odd.gguf", tiny.weights(KEYS), {"comfy.gguf.orig_shape.patch_embedding.weight": [1, 2, 3]})


ODD = {
    "empty": (lambda folder: (folder / "odd.safetensors").touch(), "odd.safetensors cannot be loaded, because it is empty"),
    "page": (lambda folder: (folder / "odd.safetensors").write_text("<!DOCTYPE html>" + "x" * 2000), "is a web page"),
    "pointer": (
        lambda folder: (folder / "odd.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"),
        "is a Git LFS pointer",
    ),
    "link": (lambda folder: (folder / "odd.safetensors").symlink_to(folder / "gone"), "is a link that leads nowhere"),
    "folder": (lambda folder: (folder / "odd.safetensors").mkdir(), "is a folder and not a file"),
    "pickle of code": (lambda folder: torch.save({"w": os.getcwd}, folder / "odd.pth"), "odd.pth holds more than plain"),
    "quanto": (quanto, "is quantised by optimum-quanto"),
    "first half": (lambda folder: shard(folder, 0), "is not a whole model"),
    "second half": (lambda folder: shard(folder, 1), "is not a whole model"),
    "without the pose": (
        lambda folder: without(folder, "condition_embedding_align.norm1.weight"),
        "SteadyDancer file is damaged or incomplete: 'condition_embedding_align.norm1.weight' is missing",
    ),
    "without the middle": (lambda folder: without(folder, "text_embedding.0.weight", "blocks.0.ffn.0.weight"),
                           "odd.safetensors is not a whole model that ComfyUI knows: 'blocks.0.ffn.0.weight' is not in it"),
    "of another size": (of_another_size, "odd.safetensors is not a whole model that ComfyUI knows"),
    "tomorrow's format": (rotated_by_tomorrow, "in the format int3_tomorrow, which this ComfyUI does not know"),
    "another pack's words": (rotated_by_another_pack, "in the format without a name, which this ComfyUI does not know"),
    "gguf without 5-D": (without_5d, "odd.gguf is not a whole model: 'patch_embedding.weight' is not in it"),
    "gguf of a wrong shape": (wrong_shape_noted, "it notes another shape for 'patch_embedding.weight'"),
    "half a split gguf": (
        lambda folder: gguf(folder / "odd-00002-of-00002.gguf", tiny.weights(KEYS)),
        "odd-00001-of-00002.gguf is not beside it",
    ),
    "a renamed part": (
        lambda folder: gguf(folder / "odd.gguf", tiny.weights(KEYS), {"split.count": 2}), "one of 2 parts of a split GGUF",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_the_loader_says_what_is_wrong(folder, what):
    make, words = ODD[what]
    before = set(folder.iterdir())
    make(folder)
    (path,) = set(folder.iterdir()) - before
    with pytest.raises(ValueError) as caught:
        choose(path.name)
    assert words in str(caught.value), caught.value
    assert str(caught.value).endswith(".") and "[Errno" not in str(caught.value)


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_any_part_of_a_split_file_loads_all(folder, golden, chosen):
    keys = sorted(tiny.weights(KEYS))
    for part in (1, 2, 3):
        save_file({key: half()[key] for key in keys[part - 1 :: 3]}, folder / f"mine-0000{part}-of-00003.safetensors")
        metadata = {"split.count": 3, "split.no": part - 1}
        gguf(folder / f"mine-Q8_0-0000{part}-of-00003.gguf", keys[part - 1 :: 3], metadata)
    assert error(choose(f"mine-0000{chosen}-of-00003.safetensors"), golden) < 0.01
    model = choose(f"mine-Q8_0-0000{chosen}-of-00003.gguf")
    assert error(model, golden) < 0.01
    load, arguments = model.cached_patcher_init
    assert error(load(*arguments), golden) < 0.01, "ComfyUI loads it again for another device"


def test_pickled_parts_are_read_like_one_pickled_file(folder, golden):
    keys = sorted(tiny.weights(KEYS))
    for part in (0, 1):
        torch.save({key: half()[key] for key in keys[part::2]}, folder / f"mine-0000{part + 1}-of-00002.bin")
    assert error(choose("mine-00001-of-00002.bin"), golden) < 0.01
    torch.save({"w": torch.zeros(1).expand(100_000, 100_000)}, folder / "mine-00002-of-00002.bin")
    with pytest.raises(ValueError, match="mine-00002-of-00002.bin holds 'w' in a form that its size does not allow"):
        choose("mine-00001-of-00002.bin")


@pytest.mark.parametrize("described", ["beside the weight", "in the header"])
def test_parts_of_a_quantised_file_load_as_the_whole_one(folder, golden, described):
    tensors = packed_by_core("int8 convrot", tiny.weights(KEYS))
    save_file(tensors, folder / "whole.safetensors")
    keys = sorted(tensors)
    for part in (0, 1):
        these, metadata = {key: tensors[key] for key in keys if (".bias" in key) == bool(part)}, {}
        if described == "in the header":
            named = [key for key in these if key.endswith(".comfy_quant")]
            layers = {key.removesuffix(".comfy_quant"): json.loads(bytes(these.pop(key).tolist())) for key in named}
            metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
        save_file(these, folder / f"mine-0000{part + 1}-of-00002.safetensors", metadata)
    whole, split = choose("whole.safetensors"), choose("mine-00001-of-00002.safetensors")
    a, b = velocity(split, golden), velocity(whole, golden)
    assert (a - b).norm() <= 1e-6 * b.norm()  # where tensors lie in memory changes the last digit


def test_two_equal_parts_are_told(folder):
    for part in (1, 2):
        save_file(half(), folder / f"mine-0000{part}-of-00002.safetensors")
        gguf(folder / f"mine-0000{part}-of-00002.gguf", tiny.weights(KEYS))
    for name in ("mine-00001-of-00002.safetensors", "mine-00001-of-00002.gguf"):
        with pytest.raises(ValueError, match=r"mine-00002-of-00002.\w+ has '.*' like another part"):
            choose(name)


def test_a_file_that_is_gone_is_told(folder):
    with pytest.raises(ValueError, match="gone.safetensors is not in models/diffusion_models any more"):
        choose("gone.safetensors")


# What core's quantiser makes: layout, the words of comfy_quant, the quantiser's options, and the error that it may have.
FORMATS = {
    "int8": ("TensorWiseINT8Layout", {"format": "int8_tensorwise"}, {}, 0.02),
    "int8 rows": ("TensorWiseINT8Layout", {"format": "int8_tensorwise"}, {"per_channel": True}, 0.02),
    "int8 convrot": (
        "TensorWiseINT8Layout",
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 4},
        {"per_channel": True, "convrot": True, "convrot_groupsize": 4},
        0.02,
    ),
    "int8 convrot in params": (
        "TensorWiseINT8Layout",
        {"format": "int8_tensorwise", "params": {"convrot": True, "convrot_groupsize": 4}},
        {"per_channel": True, "convrot": True, "convrot_groupsize": 4},
        0.02,
    ),
    "fp8 e4m3": ("TensorCoreFP8E4M3Layout", {"format": "float8_e4m3fn"}, {"scale": "recalculate"}, 0.06),
    "fp8 e5m2": ("TensorCoreFP8E5M2Layout", {"format": "float8_e5m2"}, {"scale": "recalculate"}, 0.12),
    "mxfp8": ("TensorCoreMXFP8Layout", {"format": "mxfp8"}, {}, 0.06),
    "nvfp4": ("TensorCoreNVFP4Layout", {"format": "nvfp4"}, {}, 0.2),
    "w4a4 convrot": (
        "TensorCoreConvRotW4A4Layout",
        {"format": "convrot_w4a4", "convrot_groupsize": 64},
        {"convrot_groupsize": 64},
        0.25,
    ),
    # since ComfyUI 0.31
    "w4a8": (
        "AsymW4A8Int8Layout",
        {"format": "asym_w4a8_int8", "convrot_groupsize": 64},
        {"convrot_groupsize": 64},
        0.2,
    ),
}


def packed_by_core(format: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with every 2-D weight of the pose quantised that the format can hold, as core writes it into a file."""
    from comfy.quant_ops import QuantizedTensor

    layout, words, options, _ = FORMATS[format]
    multiple = 64 if "w4a" in format or format in ("nvfp4", "mxfp8") else 4
    out, count = {}, 0
    for key, tensor in tensors.items():
        fits = key.startswith(POSE) and key.endswith("weight") and tensor.ndim == 2 and tensor.shape[1] % multiple == 0
        if not fits:
            out[key] = tensor
            continue
        out |= QuantizedTensor.from_float(tensor.float(), layout, **options).state_dict(key)
        layer = key.removesuffix("weight")
        out[f"{layer}comfy_quant"] = torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)
        count += 1
    assert count >= 2, format
    return {key: tensor.contiguous() for key, tensor in out.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_pose_weights_in_cores_formats_are_unpacked(folder, golden, format):
    """Every other weight is float32: what differs from float32 is what the format costs the pose weights."""
    from comfy.quant_ops import QUANT_ALGOS

    if FORMATS[format][1]["format"] not in QUANT_ALGOS:
        pytest.skip("this ComfyUI does not write it")
    save_file(packed_by_core(format, tiny.weights(KEYS)), folder / "packed.safetensors")
    model = choose("packed.safetensors")
    network = dict(model.model.diffusion_model.named_parameters())
    most = FORMATS[format][3]
    for key, exact in tiny.weights(KEYS).items():
        if key.startswith(POSE):
            assert type(network[key].data) is torch.Tensor and network[key].dtype == torch.float32
            assert (network[key] - exact).norm() <= most * exact.norm(), key
    found = error(model, golden)
    print(f"{format}: error against float32 {found:.4%}")
    assert found < most


def test_a_smoothed_weight_is_what_comfyui_multiplies_with(comfyui):
    """`pre_quant_scale` is multiplied into a layer's input: into the weight's columns here."""
    from steadydancer.dancer.model import restore_float32

    weight, smooth = torch.randn(32, 64), torch.rand(64) + 0.5
    sd = packed_by_core("nvfp4", {f"patch_embedding.{i}.weight": weight / smooth for i in (0, 1)})
    sd["patch_embedding.0.pre_quant_scale"] = smooth
    restore_float32(sd, "patch_embedding.0.weight", weight.shape)
    assert (sd["patch_embedding.0.weight"] - weight).norm() < 0.2 * weight.norm()
    assert not [key for key in sd if key.startswith("patch_embedding.0.") and not key.endswith(".0.weight")]


class GGMLTensor(torch.Tensor):
    """As ComfyUI-GGUF hands them to ComfyUI: ggml's bytes, which say that they have another shape."""

    def __new__(cls, data, tensor_type, tensor_shape):
        return data.as_subclass(cls)

    def __init__(self, data, tensor_type, tensor_shape):
        self.tensor_type, self.tensor_shape = tensor_type, tensor_shape

    def to(self, *args, **kwargs):
        new = super().to(*args, **kwargs)
        new.tensor_type, new.tensor_shape = self.tensor_type, self.tensor_shape
        return new

    @property
    def shape(self):
        return getattr(self, "tensor_shape", None) or self.size()


class Packed(torch.Tensor):
    """As a pack that nobody knows would: its own bytes, and perhaps a way to unpack them."""

    def __new__(cls, data, plain=None):
        made = data.as_subclass(cls)
        made.plain = plain
        return made

    def dequantize(self):
        if self.plain is None:
            raise NotImplementedError
        return self.plain


def ggml(key: str, kind: str, with_gguf_py: bool) -> GGMLTensor:
    import gguf

    tensor = tiny.weights(KEYS)[key]
    number = gguf.GGMLQuantizationType(NUMBER[kind]) if with_gguf_py else NUMBER[kind]
    data = torch.frombuffer(bytearray(quantise(tensor.numpy(), kind)), dtype=torch.uint8)
    if kind in ("F32", "F16"):
        return GGMLTensor(data.view({"F32": torch.float32, "F16": torch.float16}[kind]), number, tensor.shape)
    return GGMLTensor(data.reshape(tensor.shape[0], -1), number, tensor.shape)


@pytest.mark.parametrize("with_gguf_py", [True, False])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_tensors_of_comfyui_gguf_are_unpacked(comfyui, golden, kind, with_gguf_py):
    import comfy.sd

    most = {"F32": 1e-5, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2, "Q5_1": 0.06, "Q4_0": 0.12}[kind]
    tensors = dict(tiny.weights(KEYS))
    for key in tensors:
        if key.startswith("condition_embedding_") and tensors[key].ndim == 2 and tensors[key].shape[1] % 32 == 0:
            tensors[key] = ggml(key, kind, with_gguf_py)
    assert sum(type(tensor) is GGMLTensor for tensor in tensors.values()) >= 2
    model = comfy.sd.load_diffusion_model_state_dict(tensors)
    assert type(model.model).__name__ == "SteadyDancerBase"
    assert error(model, golden) < most


def test_what_unpacks_itself_is_asked_and_what_cannot_is_named(comfyui):
    from steadydancer.dancer.model import restore_float32

    key, shape = "condition_embedding_align.cross_attn.out_proj.weight", torch.Size((128, 128))
    plain = torch.randn(shape)
    sd = {key: Packed(torch.zeros(999, dtype=torch.uint8), plain.half())}
    restore_float32(sd, key, shape)
    assert type(sd[key]) is torch.Tensor and torch.equal(sd[key], plain.half().float())
    layer = key.removesuffix("weight")
    refused = {
        "a Packed of another pack": {key: Packed(torch.zeros(999, dtype=torch.uint8))},
        "a Packed of another pack ": {key: Packed(torch.zeros(4), torch.zeros(7))},
        "of the ggml type 4000": {key: GGMLTensor(torch.zeros(999, dtype=torch.uint8), 4000, shape)},
        "uint8, and how it is packed is not said": {key: torch.zeros(128, 64, dtype=torch.uint8)},
        "int8, and how it is packed is not said": {key: torch.zeros(shape, dtype=torch.int8)},
        "scales for its blocks": {
            key: torch.zeros(shape, dtype=torch.int8), f"{layer}weight_scale": torch.ones(128, 4),
        },
        '{"format": "tomorrow"}': {
            key: torch.zeros(shape, dtype=torch.int8), f"{layer}weight_scale": torch.ones(1),
            f"{layer}comfy_quant": torch.tensor(list(b'{"format": "tomorrow"}'), dtype=torch.uint8),
        },
        "does not know its format, nonsense": {
            key: torch.zeros(shape, dtype=torch.int8),
            f"{layer}comfy_quant": torch.tensor(list(b"nonsense"), dtype=torch.uint8),
        },
        "quantised by optimum-quanto": {f"{key}._data": torch.zeros(shape, dtype=torch.int8)},
    }  # fmt: skip
    for words, tensors in refused.items():
        with pytest.raises(ValueError, match=f"'{key}' of this SteadyDancer file cannot be unpacked here") as caught:
            restore_float32(tensors, key, shape)
        assert words.strip() in str(caught.value)


def test_int8_of_rows_with_a_scale_beside_it_is_multiplied(comfyui):
    """Without comfy_quant: one scale, or one for each row, whichever way it lies."""
    from steadydancer.dancer.model import restore_float32

    exact = torch.randn(128, 128)
    scale = exact.abs().amax(1, keepdim=True) / 127
    for side in (scale, scale.flatten()):
        sd = {"x.weight": (exact / scale).round().to(torch.int8), "x.weight_scale": side}
        restore_float32(sd, "x.weight", exact.shape)
        assert (sd["x.weight"] - exact).norm() < 0.01 * exact.norm() and list(sd) == ["x.weight"]


def test_load_pose_reads_only_what_can_be_a_pose(comfyui):
    """The file is chosen by its name: 10 GB of something else, a pipe, a link that leads nowhere, deep brackets."""
    import folder_paths
    from steadydancer.nodes.pose_file import SteadyDancerPoseLoad

    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(exist_ok=True)
    huge, pipe, link, deep = (folder / f"odd-{name}.json" for name in ("huge", "pipe", "link", "deep"))
    with open(huge, "wb") as file:
        file.truncate(10 << 30)
    os.mkfifo(pipe)
    link.symlink_to(folder / "gone")
    deep.write_text("[" * 200_000)
    expected = {
        huge: "odd-huge.json has 10,737,418,240 bytes, and poses take up to",
        pipe: "odd-pipe.json is not a file",
        link: "odd-link.json is not a file",
        deep: "This is not a pose: the text is not valid JSON",
    }
    try:
        for path, words in expected.items():
            SteadyDancerPoseLoad.fingerprint_inputs(path.name)
            with pytest.raises(ValueError, match=words):
                SteadyDancerPoseLoad.execute(path.name)
    finally:
        for path in expected:
            path.unlink()


def test_pictures_that_memory_cannot_hold_are_not_drawn(comfyui):
    from steadydancer.nodes.pose import read, require_room

    frames = [{"people": [], "canvas_width": 16384, "canvas_height": 16384}, *[{}] * 15_000]
    with pytest.raises(ValueError, match=r"15,001 pictures of 16384×16384 take \d+\.\d GB, and .* of memory are free"):
        require_room(read(frames))


def test_both_programs_find_models_in_the_same_folders(comfyui, tmp_path):
    """The yaml through ComfyUI's own reader, and through cli.py's."""
    import folder_paths
    from steadydancer.loaders.build import ComfyPlaces
    from steadydancer.loaders.download.extra_paths import extra_folders
    from steadydancer.loaders.download.places import Places
    from utils.extra_config import load_extra_path_config

    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(
        "a:\n  base_path: shared\n  is_default: true\n  vae: VAEs\n  unet: |\n    one\n    two/\n  clip: t5\n"
        f"b:\n  base_path: $HOME/x\n  diffusion_models: ../y\nc:\n  vae: {tmp_path}/more\n  text_encoders: encoders\n"
    )
    kept = {name: list(paths) for name, (paths, _) in folder_paths.folder_names_and_paths.items()}
    try:
        load_extra_path_config(str(path))
        places = Places(folder_paths.models_dir, extra_folders(path))
        for kind in ("vae", "diffusion_models", "text_encoders", "clip_vision", "loras", "controlnet"):
            assert places.folders(kind) == ComfyPlaces().folders(kind), kind
    finally:
        for name, paths in kept.items():
            folder_paths.folder_names_and_paths[name][0][:] = paths


def test_a_script_may_call_the_loader_by_itself(comfyui):
    from steadydancer.nodes.loaders import SteadyDancerLoader

    (comfyui / "models" / "diffusion_models" / "called.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="called.safetensors cannot be loaded, because it is empty"):
        SteadyDancerLoader.execute("called.safetensors", step_distill=False)
