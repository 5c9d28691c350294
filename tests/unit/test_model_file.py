"""What a model file is, by its content: every way in which one is there by name and not there by content."""

import gzip
import io
import json
import os
import struct
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from steadydancer.formats import model_file
from steadydancer.formats.model_file import damage, foreign, parts, require_complete, require_diffusion
from steadydancer.formats.safetensors_file import quantisation_formats, safetensors_header
from support.gguf_writer import quantise, write_gguf


def safetensors_bytes(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F16", shape=(2, 2), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


WHOLE = safetensors_bytes({"w": entry()}, bytes(8))


def zipped(compression=zipfile.ZIP_STORED, **files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


def lying_zip() -> bytes:
    """A directory that says of one entry that it holds a gigabyte."""
    data = bytearray(zipped(**{"a__data.pkl": b"x", "a__data": bytes(100)}))
    at = data.rfind(b"PK\1\2")
    struct.pack_into("<II", data, at + 20, 1 << 30, 1 << 30)
    return bytes(data)


DAMAGED = {
    "nothing.safetensors": (b"", "is empty"),
    "page.safetensors": (b"<!DOCTYPE html><html>" + b"x" * 2000, "is a web page"),
    "bom.safetensors": (b"\xef\xbb\xbf\r\n<html lang='en'>" + b"x" * 2000, "is a web page"),
    "xml.gguf": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "the error message of a server"),
    "pointer.safetensors": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64,
        "a Git LFS pointer",
    ),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64, "a Git LFS pointer"),
    "json.safetensors": (b'{"error":"Invalid username or password."}', "the error message of a server"),
    "json.onnx": (b'{"error":"Invalid username or password."}', "the error message of a server"),
    "note.safetensors": (b"Entry not found, sorry", "is a text"),
    "half.safetensors": (WHOLE[:-3], "is cut short"),
    "seven.safetensors": (b"\x01\x02\x03\x80\x01\x02\x03", "is cut short"),
    "longer.safetensors": (WHOLE + b"tail", "4 bytes longer than its header says"),
    "zeros.safetensors": (bytes(4096), "nothing but zeros"),
    "words.safetensors": (safetensors_bytes(b"{nope" + b" " * 64), "has a header that cannot be read"),
    "list.safetensors": (safetensors_bytes(b'{"w":[1,2,3]}'), "has a header that cannot be read"),
    "brackets.safetensors": (safetensors_bytes(b'{"w":' + b"[" * 200_000), "has a header that cannot be read"),
    "digits.safetensors": (safetensors_bytes(b'{"w":' + b"1" * 200_000 + b"}"), "has a header that cannot be read"),
    "negative.safetensors": (safetensors_bytes({"w": entry(offsets=(-8, 0))}, bytes(8)), "cannot be read"),
    "shape.safetensors": (safetensors_bytes({"w": entry(shape=(1 << 20, 1 << 20))}, bytes(8)), "says of 'w'"),
    "overlap.safetensors": (safetensors_bytes({"v": entry(), "w": entry()}, bytes(8)), "says of 'w'"),
    "hole.safetensors": (safetensors_bytes({"w": entry(offsets=(8, 16))}, bytes(16)), "says of 'w'"),
    "named.safetensors": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "let it end in .gguf"),
    "named.gguf": (WHOLE, "let it end in .safetensors"),
    "pickle.safetensors": (zipped(**{"a__data.pkl": b"x"}), "let it end in .pth"),
    "archive.safetensors": (zipped(**{"model.safetensors": WHOLE}), "is a ZIP archive: unpack it"),
    "archive.pth": (zipped(**{"readme.txt": b"hello", "model.pth": b"x"}), "is a ZIP archive: unpack it"),
    "packed.gguf": (gzip.compress(b"GGUF" + bytes(99), mtime=9), "is a gzip archive"),
    "picture.safetensors": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture"),
    "bomb.pth": (zipped(zipfile.ZIP_DEFLATED, **{"a__data.pkl": b"x", "a__data__0": bytes(1 << 24)}), "is compressed"),
    "lies.pth": (lying_zip(), "more than it has bytes for"),
    "half.pth": (zipped(**{"a__data.pkl": b"x" * 999})[:500], "is cut short"),
    "other.pth": (bytes(range(1, 200)), "is not a file of PyTorch"),
    "half.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "ends in the middle of its header"),
    "half.onnx": (b"\x08\x07\x3a\xff\x7f" + bytes(99), "is cut short or not an ONNX file"),
    "other.onnx": (b"\x9a" * 99, "is cut short or not an ONNX file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_model_is_told(tmp_path, name):
    content, words = DAMAGED[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert words in damage(path)
    with pytest.raises(ValueError, match=rf"{name} cannot be loaded, because it .*\. Download the file again"):
        model_file.require_whole([path])


def test_a_link_a_folder_and_a_pipe_are_told(tmp_path):
    link, folder, pipe = (tmp_path / f"{name}.safetensors" for name in ("link", "folder", "pipe"))
    link.symlink_to(tmp_path / "gone")
    folder.mkdir()
    os.mkfifo(pipe)
    assert [damage(path) for path in (link, folder, pipe, tmp_path / "none.gguf")] == [
        "is a link that leads nowhere",
        "is a folder and not a file",
        "is not a regular file",
        "cannot be read (No such file or directory)",
    ]


def test_whole_files_are_whole(tmp_path):
    save_file({"w": torch.zeros(3, 5), "e": torch.zeros(0, 4)}, tmp_path / "a.safetensors", {"note": "x"})
    torch.save({"w": torch.zeros(3)}, tmp_path / "new.pth")
    torch.save({"w": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    write_gguf(tmp_path / "a.gguf", {"w": ("F32", (4,), bytes(16))})
    # a header of 559,903 bytes makes the file begin like a gzip archive
    text = b'{"w":' + json.dumps(entry()).encode() + b"}"
    (tmp_path / "gzip.safetensors").write_bytes(safetensors_bytes(text.ljust(559_903), bytes(8)))
    assert (tmp_path / "gzip.safetensors").read_bytes()[:3] == b"\x1f\x8b\x08"
    for path in tmp_path.iterdir():
        assert damage(path) == "", path


def test_a_header_as_long_as_the_file_is_not_read(tmp_path):
    path = tmp_path / "long.safetensors"
    path.write_bytes(safetensors_bytes(b'{"__metadata__":{"a":"' + b"[" * (40 << 20) + b'"}}'))
    tracemalloc.start()
    words = damage(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "has a header of 41,943,065 bytes, too long" in words and peak < 1 << 20


def test_small_headers_take_memory_of_their_own_size_at_most(tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(safetensors_bytes(b'{"__metadata__":' + b"[" + b"[]," * 500_000 + b"[]]}"))
    tracemalloc.start()
    with pytest.raises(ValueError, match="cannot be read"):
        safetensors_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * path.stat().st_size


FOREIGN = {
    "optimum-quanto": ("blocks.0.q.weight._data", "blocks.0.q.weight._scale"),
    "bitsandbytes (nf4": ("blocks.0.q.weight", "blocks.0.q.weight.absmax", "blocks.0.q.weight.quant_map"),
    "bitsandbytes (int8)": ("blocks.0.q.SCB", "blocks.0.q.weight"),
    "GPTQ": ("blocks.0.q.qweight", "blocks.0.q.qzeros", "blocks.0.q.g_idx", "blocks.0.q.scales"),
    "AWQ": ("blocks.0.q.qweight", "blocks.0.q.qzeros", "blocks.0.q.scales"),
    "nunchaku": ("blocks.0.q.qweight", "blocks.0.q.wscales", "blocks.0.q.smooth_factor"),
    "compressed-tensors": ("blocks.0.q.weight_packed", "blocks.0.q.weight_shape"),
    "HQQ": ("blocks.0.q.W_q",),
    "torchao": ("blocks.0.q.weight:qdata", "blocks.0.q.weight:scale"),
    "DFloat11": ("blocks.0.encoded_exponent",),
    "TurboDiffusion": ("blocks.0.q.int8_weight", "blocks.0.q.scale"),
    "diffusers' folder layout": (
        "condition_embedder.time_embedder.linear_1.weight",
        "blocks.0.attn1.to_q.weight",
        "proj_out.weight",
    ),
    "a LoRA": ("blocks.0.q.lora_down.weight", "blocks.0.q.lora_up.weight", "blocks.0.q.alpha"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_quantisers_are_named(tmp_path, kind):
    path = tmp_path / "theirs.safetensors"
    save_file({name: torch.zeros(2, 2) for name in FOREIGN[kind]}, path)
    with pytest.raises(ValueError, match="theirs.safetensors cannot be loaded, because it") as caught:
        require_diffusion([path])
    assert kind in str(caught.value) and "Choose a file of another kind" in str(caught.value)


def test_the_planner_says_the_same(tmp_path):
    from steadydancer.planning.model_sizes import header

    path = tmp_path / "page.safetensors"
    path.write_bytes(b"<!DOCTYPE html><html>" + b"x" * 2000)
    with pytest.raises(ValueError, match="page.safetensors is damaged: it is a web page and not a model"):
        header(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"page.safetensors cannot be read \(No such file or directory\)"):
        header(path)


def test_mlx_and_8_bits_without_a_description_are_named(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file({"a.weight": torch.zeros(2, 2), "a.scales": torch.zeros(2)}, path, {"format": "mlx"})
    assert foreign(safetensors_header(path)) == "was written for Apple's MLX"
    save_file({"a.weight": torch.zeros(2, 2, dtype=torch.int8), "a.weight_scale": torch.ones(2, 1)}, path)
    assert "does not say how they are to be read" in foreign(safetensors_header(path))
    described = {"a.comfy_quant": torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)}
    save_file({"a.weight": torch.zeros(2, 2, dtype=torch.int8), "a.weight_scale": torch.ones(2, 1), **described}, path)
    assert foreign(safetensors_header(path)) == ""
    assert quantisation_formats(path) == {"int8_tensorwise"}
    layers = json.dumps({"layers": {"a": {"format": "nvfp4"}, "b": {"format": "tomorrow"}}})
    save_file({"a.weight": torch.zeros(2, 2, dtype=torch.uint8)}, path, {"_quantization_metadata": layers})
    assert foreign(safetensors_header(path)) == ""
    assert quantisation_formats(path) == {"nvfp4", "tomorrow"}
    unnamed = {"a.comfy_quant": torch.tensor(list(b'{"convrot": true, "per_row": true}'), dtype=torch.uint8)}
    save_file(unnamed, path)
    assert quantisation_formats(path) == {"without a name"}


def wan(blocks: int) -> list[str]:
    names = [f"blocks.{i}.self_attn.q.weight" for i in range(blocks)]
    return [*names, *model_file.WAN_ENDS]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_network_of_wans_kind_is_whole_or_told(prefix):
    names = [prefix + name for name in wan(4)]
    require_complete(names, "x")
    require_complete(["vae.decoder.weight"], "x")
    for missing, words in (("blocks.2.self_attn.q.weight", "block 2"), ("head.head.weight", "'head.head.weight'"),
                           ("patch_embedding.weight", "'patch_embedding.weight'")):  # fmt: skip
        with pytest.raises(ValueError, match=f"x is not a whole model: {words} is not in it"):
            require_complete([name for name in names if name != prefix + missing], "x")


def test_parts_are_all_or_none(tmp_path):
    files = [tmp_path / f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for path in files:
        path.write_bytes(WHOLE)
    assert parts(files[1]) == files
    files[0].unlink()
    with pytest.raises(
        ValueError, match="is one of 3 parts of a split model, and model-00001-of-00003.safetensors is not"
    ):
        parts(files[1])
    files[2].unlink()
    with pytest.raises(
        ValueError, match="model-00001-of-00003.safetensors, model-00003-of-00003.safetensors are not beside"
    ):
        parts(files[1])


def test_a_split_gguf_under_another_name_is_told(tmp_path):
    values = {"w": ("F32", (4,), quantise(torch.zeros(4).numpy(), "F32"))}
    path = write_gguf(tmp_path / "renamed.gguf", values, {"split.count": 2, "split.no": 0})
    with pytest.raises(ValueError, match="renamed.gguf is one of 2 parts of a split GGUF.*llama-gguf-split --merge"):
        parts(path)
    whole = write_gguf(tmp_path / "whole.gguf", values, {"split.count": 1, "split.no": 0})
    assert parts(whole) == [whole]
