"""GGUF headers: good ones read with little work, bad ones refused in words."""

import struct
import sys
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from steadydancer.formats.ggml_types import FLOATS, PACKED, type_name
from steadydancer.formats.gguf_file import open_gguf
from steadydancer.quant.blocks import dequantise
from support.broken_gguf import open_broken_files, write_small
from support.gguf_writer import BY_NAME, QUANTISERS, quantise, write_gguf


@pytest.fixture
def small(tmp_path):
    return write_small(tmp_path / "small.gguf")


def test_it_reads_what_gguf_py_reads(small):
    ours, theirs = open_gguf(small), gguf.GGUFReader(small)
    assert ours.metadata["general.architecture"] == "wan"
    assert ours.array("tokenizer.ggml.tokens") == ["a", "bc"]
    assert ours.array("tokenizer.ggml.scores") == [0.5, 1.5]
    assert ours.array("comfy.gguf.n") == [3, 4]
    for tensor in theirs.tensors:
        place = ours.tensors[tensor.name]
        assert place.shape == tuple(int(size) for size in tensor.shape[::-1])
        assert place.start == tensor.data_offset
        assert bytes(ours.raw(tensor.name).view(torch.uint8).numpy()) == tensor.data.tobytes()


def test_data_is_mapped_not_copied(tmp_path):
    data = bytes(64 << 20)
    path = write_gguf(tmp_path / "large.gguf", {"w": ("F16", (1 << 15, 1 << 10), data)})
    tracemalloc.start()
    tensor = open_gguf(path).raw("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert tensor.storage_offset() == 0 and tensor.shape == (1 << 15, 1 << 10)


@pytest.mark.parametrize("kind", QUANTISERS)
def test_the_tests_quantiser_makes_what_gguf_py_understands(kind):
    values = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    data = np.frombuffer(quantise(values, kind), np.uint8).reshape(64, -1)
    back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    error = np.sqrt(((back - values) ** 2).mean() / (values**2).mean())
    bits = BY_NAME[kind].bytes * 8 / BY_NAME[kind].weights
    assert error < 2.6 * 2 ** -(bits - 1)
    ours = dequantise(torch.from_numpy(data.copy()), BY_NAME[kind], torch.empty(64, 256))
    assert np.array_equal(ours.numpy(), back)


def test_the_types_are_ggmls():
    """Number, name, weights and bytes of a block: of every type that is read, as the gguf package has them."""
    for number, (name, size) in FLOATS.items():
        assert gguf.GGMLQuantizationType(number).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (1, size)
    for number, (name, *sizes) in PACKED.items():
        assert gguf.GGMLQuantizationType(number).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == tuple(sizes)
    assert len(FLOATS) == 3 and len(PACKED) == 12


def test_a_type_that_is_not_read_is_named_with_and_without_gguf(monkeypatch):
    assert type_name(39) == "MXFP4" and type_name(4000) == "the unknown type 4000"
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert type_name(39) == "the unknown type 39"


def header(version=3, tensors=0, keys=0, rest=b""):
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, keys) + rest


def tensor(name=b"w", dims=(32,), kind=0, offset=0):
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


WRONG = {
    "no gguf": (b"PK\x03\x04", "does not begin like a GGUF file"),
    "only magic": (b"GGUF", "ends in the middle"),
    "version": (header(9), "version 9"),
    "big-endian": (header(3 << 24), "big-endian"),
    "huge tensor count": (header(tensors=1 << 60), "more than fit"),
    "huge key count": (header(keys=1 << 63), "more than fit"),
    "huge name": (header(tensors=1, rest=struct.pack("<Q", 1 << 40) + bytes(64)), "a name or text"),
    "huge array": (header(keys=1, rest=struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 1 << 60) + bytes(64)), "in the middle"),
    "nested array": (
        header(keys=1, rest=struct.pack("<Q1sIIQ", 1, b"k", 9, 9, 1) + bytes(64)),
        "entries of the kind 9",
    ),
    "unknown kind": (header(keys=1, rest=struct.pack("<Q1sI", 1, b"k", 77) + bytes(64)), "unknown kind 77"),
    "not text": (header(keys=1, rest=struct.pack("<Q1sI", 1, b"\xff", 77) + bytes(64)), "not text"),
    "no dimensions": (header(tensors=1, rest=tensor(dims=()) + bytes(256)), "0 dimensions"),
    "huge tensor": (header(tensors=1, rest=tensor(dims=(1 << 62, 1 << 62)) + bytes(256)), "has the shape"),
    "known but unused type": (header(tensors=1, rest=tensor(kind=17) + bytes(256)), "stored as IQ2_XS"),
    "unknown type": (header(tensors=1, rest=tensor(kind=4000) + bytes(256)), "the unknown type 4000"),
    "row no multiple of a block": (header(tensors=1, rest=tensor(dims=(40,), kind=8) + bytes(256)), "have 40 weights"),
    "offset not aligned": (header(tensors=1, rest=tensor(offset=8) + bytes(512)), "multiple of 32"),
    "data cut short": (header(tensors=1, rest=tensor(dims=(4096,)) + bytes(256)), "ends before the data of 'w'"),
    "the same name twice": (header(tensors=2, rest=tensor() + tensor(offset=128) + bytes(512)), "in it twice"),
    "overlap": (header(tensors=2, rest=tensor() + tensor(b"v", offset=64) + bytes(512)), "over each other"),
    "alignment 0": (
        header(keys=1, rest=struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0)),
        "alignment is 0",
    ),
    "alignment 3": (
        header(keys=1, rest=struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 3)),
        "alignment is 3",
    ),
}


def test_an_empty_tensor_is_a_mark_and_no_mistake(tmp_path):
    path = tmp_path / "mark.gguf"
    path.write_bytes(header(tensors=2, rest=tensor(b"mark", dims=(0,)) + tensor() + bytes(256)))
    file = open_gguf(path)
    assert file.raw("mark").shape == (0,) and file.raw("mark").dtype == torch.float32
    assert file.raw("w").shape == (32,)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_header_is_refused_in_words(tmp_path, what):
    content, expected = WRONG[what]
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="wrong.gguf cannot be loaded, because") as caught:
        open_gguf(path)
    assert expected in str(caught.value)
    another = "Choose a file of another type, such as Q4_K_M."
    again = "Download the file again, or choose another variant."
    assert str(caught.value).endswith(another if "type" in what else again)


def test_broken_headers_cost_little(small, tmp_path):
    """A sample; tests/exhaustive/test_gguf_fuzz.py opens ten thousand."""
    cost = open_broken_files(small, tmp_path / "broken.gguf", count=300)
    assert cost.refused > 150 and cost.calls < 2_000 and cost.memory < 4 << 20
