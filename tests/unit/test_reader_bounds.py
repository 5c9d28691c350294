"""Small files that would take memory or time: each reader ends within what the file's size deserves, and says why."""

import json
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from steadydancer.base.cancel import Cancelled
from steadydancer.formats import gguf_file, onnx_file, pickle_file
from steadydancer.formats.gguf_file import open_gguf
from steadydancer.pose import interchange
from steadydancer.pose.weights import load_detector, load_pose_net


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def graph(*parts: bytes) -> bytes:
    return part(onnx_file.GRAPH, b"".join(parts))


TENSOR, NODE = onnx_file.INITIALIZER, onnx_file.NODE
HUGE = 3_400_000_000
ONNX = {
    "a number as an operator's name": graph(part(NODE, number(onnx_file.NODE_OP, HUGE))),
    "a number as an input's name": graph(part(NODE, number(onnx_file.NODE_INPUT, HUGE))),
    "a number as a tensor's name": graph(part(TENSOR, number(onnx_file.NAME, HUGE))),
    "a number as data": graph(part(TENSOR, number(2, 1) + number(onnx_file.FLOATS, HUGE))),
    "a shape without data": graph(part(TENSOR, number(onnx_file.DIMS, 850_000_000) + number(2, 1))),
    "whole numbers without data": graph(part(TENSOR, number(onnx_file.DIMS, 850_000_000) + number(2, 7))),
    "a number without an end": b"\x3a" + b"\xff" * 1_000_000,
    "a length without an end": graph(part(TENSOR, b"\x0a" + b"\x80" * 1_000_000)),
    "a million dimensions": graph(part(TENSOR, part(onnx_file.DIMS, b"\1" * 1_000_000) + number(2, 1))),
    "two million fields": graph(b"\x08\x01" * 2_000_000),
    "nothing": b"\x08\x07",
}


@pytest.mark.parametrize("what", ONNX)
def test_onnx(tmp_path, what, monkeypatch):
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 20_000)  # the mechanism, in less time
    path = tmp_path / "net.onnx"
    path.write_bytes(ONNX[what])
    tracemalloc.start()
    for load in (load_detector, load_pose_net):
        with pytest.raises(ValueError, match=r"net.onnx cannot be used as a .*: it is .*Choose another file"):
            load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (1 << 20) + 4 * path.stat().st_size


def test_an_empty_tensor_of_the_graph_is_no_weight(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(graph(part(TENSOR, number(onnx_file.DIMS, 0) + number(onnx_file.DIMS, 1 << 40) + number(2, 1))))
    assert onnx_file.read(path) == onnx_file.Weights()


def saved(path, tensors):
    torch.save(tensors, path)
    return path


def test_strides_of_nothing_are_refused(tmp_path):
    """4 bytes that stand for 40 GB, and a thousand names for one megabyte."""
    one = saved(tmp_path / "one.pth", {"w": torch.zeros(1).expand(100_000, 100_000)})
    many = saved(tmp_path / "many.pth", {f"w{i}": torch.zeros(1).expand(1 << 18) for i in range(1000)})
    base = torch.zeros(1 << 18)
    shared = saved(tmp_path / "shared.pth", {f"w{i}": base for i in range(1000)})
    for path in (one, many, shared):
        with pytest.raises(ValueError, match=rf"{path.name} holds 'w\d*' in a form that its size does not allow"):
            pickle_file.weights(path)
        with pytest.raises(ValueError, match=rf"^{path.name} .*Choose another file"):
            load_pose_net(path)
    tied = saved(tmp_path / "tied.pth", {"a": base, "b": base, "c": base[:100]})
    assert set(pickle_file.weights(tied)) == {"a", "b", "c"}


def test_the_ways_in_which_people_wrap_their_tensors(tmp_path):
    tensors = {"a": torch.ones(3), "b": torch.zeros(2)}
    for wrapped in (tensors, {"state_dict": tensors, "meta": {"epoch": 3}}, {"model": tensors}, {**tensors, "step": 7}):
        assert set(pickle_file.weights(saved(tmp_path / "w.pth", wrapped))) == {"a", "b"}
    with pytest.raises(ValueError, match="list.pth is not a list of tensors"):
        pickle_file.weights(saved(tmp_path / "list.pth", [torch.ones(3)]))


def test_unusual_tensors_are_refused(tmp_path):
    sparse = saved(tmp_path / "sparse.pth", {"w": torch.zeros(10, 10).to_sparse()})
    complex_numbers = saved(tmp_path / "complex.pth", {"w": torch.zeros(4, dtype=torch.complex64)})
    for path in (sparse, complex_numbers):
        with pytest.raises(ValueError, match=rf"{path.name} holds 'w'"):
            pickle_file.weights(path)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    plain, bomb = saved(tmp_path / "plain.pth", {"w": torch.zeros(1 << 22)}), tmp_path / "bomb.pth"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert bomb.stat().st_size < 1 << 18
    with pytest.raises(ValueError, match="bomb.pth is damaged or no checkpoint of PyTorch: it is compressed"):
        pickle_file.weights(bomb)


def test_an_old_pytorch_unpickles_nothing(tmp_path, monkeypatch):
    path = saved(tmp_path / "w.pth", {"w": torch.zeros(4)})
    assert pickle_file.weights(path)
    for version in ("2.5.1+cu121", "1.13.0", "2.0"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(ValueError, match=r"w.pth is a pickled file, and in PyTorch .* Update PyTorch to 2.6"):
            pickle_file.weights(path)
    monkeypatch.setattr(torch, "__version__", "2.6.0a0")
    assert pickle_file.weights(path)


def test_code_in_a_pickle_is_not_run(tmp_path):
    import os

    class Opens:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "evil.pth"
    torch.save({"w": Opens()}, path)
    legacy = tmp_path / "legacy.pth"
    legacy.write_bytes(pickle.dumps({"w": Opens()}, protocol=2))
    for file in (path, legacy):
        with pytest.raises(ValueError, match=rf"^{file.name} "):
            pickle_file.weights(file)
    assert not (tmp_path / "ran").exists()


def called(module: bytes, name: bytes, argument: bytes) -> bytes:
    return b"c" + module + b"\n" + name + b"\n" + argument + b"\x85R"


SIX_GB = b"\x8a\x05" + (6 << 30).to_bytes(5, "little")
TWICE_ITSELF = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(40))
BOMBS = {
    "a bytearray of any size": b"X\1\0\0\0a" + called(b"builtins", b"bytearray", SIX_GB) + b"s",
    "and by its old name": b"X\1\0\0\0a" + called(b"__builtin__", b"bytearray", SIX_GB) + b"s",
    "a key whose hash has no end": TWICE_ITSELF + b"K\1s",
    "in the argument of a dictionary": b"X\1\0\0\0a"
    + called(b"collections", b"OrderedDict", b"](" + TWICE_ITSELF + b"K\1\x86e")
    + b"s",
    "in that of a counter": b"X\1\0\0\0a" + called(b"collections", b"Counter", b"](" + TWICE_ITSELF + b"e") + b"s",
    "two million steps": b"X\1\0\0\0a" + b"]0" * 1_100_000 + b"]s",
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_asks_for_all_memory_or_all_time(tmp_path, bomb, legacy):
    """PyTorch's own reader would do what it says."""
    path, program = tmp_path / "bomb.pth", b"\x80\2}" + BOMBS[bomb] + b"."
    if legacy:
        path.write_bytes(program * 5)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/version", "3\n")
    with pytest.raises(ValueError, match=r"^bomb.pth (holds more than plain tensors|is damaged or no checkpoint)"):
        pickle_file.weights(path)


def test_checkpoints_before_pytorch_1_6_are_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"w": torch.arange(4.0)}, path, _use_new_zipfile_serialization=False)
    assert pickle_file.weights(path)["w"].tolist() == [0, 1, 2, 3]


def gguf(keys: int = 0, tensors: int = 0, rest: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + rest


def test_gguf(tmp_path, monkeypatch):
    path = tmp_path / "w.gguf"
    texts = struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 2000) + bytes(8 * 2000)
    monkeypatch.setattr(gguf_file, "MOST_TEXTS", 1000)
    monkeypatch.setattr(gguf_file, "MOST_ENTRIES", 1000)
    monkeypatch.setattr(gguf_file, "LONGEST_HEADER", 4000)
    names = b"".join(struct.pack("<Q4sIQ", 4, b"%04d" % i, 8, 500) + bytes(500) for i in range(20))
    for content, words in (
        (gguf(keys=1, rest=texts), "holds more than 1,000 words"),
        (gguf(keys=1500, rest=bytes(1 << 16)), "claims 1,500 keys"),
        (gguf(tensors=1500, rest=bytes(1 << 16)), "1,500 tensors, more than fit"),
        (gguf(keys=20, rest=names), "its header is longer than 4,000 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="w.gguf cannot be loaded, because") as caught:
            open_gguf(path)
        assert words in str(caught.value)


CANVAS = {"canvas_width": 64, "canvas_height": 64}
POSES = {
    "one crowd in many empty frames": [{"people": [{}] * 6000, **CANVAS}, *[{}] * 6000],
    "many people of one point": [{"people": [{"pose_keypoints_2d": [1, 2, 1]}] * 2000, **CANVAS}, *[{}] * 5000],
    "many track ids": [{"people": [{"track_id": i}], **CANVAS} for i in range(3000)],
}


@pytest.mark.parametrize("what", POSES)
def test_poses(what):
    text = json.dumps(POSES[what])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"This pose has .* frames and up to .* people in one, and next to no points"):
        interchange.read(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(text)


def test_poses_of_real_clips_are_read():
    person = {"pose_keypoints_2d": [5.0, 6.0, 1.0] * 18}
    crowd = [{"people": [person] * 40, **CANVAS}, *[{"people": [person], **CANVAS}] * 400]
    assert interchange.read(crowd).points.shape[:2] == (401, 40)
    assert interchange.read([{"people": [], **CANVAS}, *[{}] * 10_000]).points.shape[:2] == (10_001, 0)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"people":' * 100_000, '{"canvas_width": 1' + "0" * 5000 + "}", "1" * 5000],
    ids=["brackets", "people in people", "a long width", "a long number"],
)
def test_deep_and_long_json_is_no_pose(text):
    with pytest.raises(ValueError, match="This is not a pose: the text is not valid JSON"):
        interchange.read(text)


@pytest.mark.parametrize("size", [1e9, 20_000, float("inf"), "1e5", float("nan"), None, [5]])
def test_a_canvas_of_any_size_is_not_taken(size):
    with pytest.raises(ValueError, match=r"Set canvas_width|Correct canvas_width"):
        interchange.read([{"people": [], "canvas_width": size, "canvas_height": 64}])


def test_cancel_ends_the_reading_of_poses():
    frames = [{"people": [{"pose_keypoints_2d": [1.0, 2.0, 1.0] * 18}], **CANVAS}] * 100
    asked = []
    with pytest.raises(Cancelled):
        interchange.read(frames, lambda: asked.append(1) or len(asked) > 3)
    assert len(asked) == 4
    assert np.isfinite(interchange.read(frames, lambda: False).points).all()


def test_a_record_that_is_shorter_than_its_tensor_is_refused(tmp_path):
    plain, short = saved(tmp_path / "plain.pth", {"w": torch.zeros(1 << 16)}), tmp_path / "short.pth"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(short, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: 4 if name.endswith("data/0") else None])
    with pytest.raises(ValueError, match="short.pth is damaged or no checkpoint"):
        pickle_file.weights(short)
