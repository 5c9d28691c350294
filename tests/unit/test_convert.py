"""A model's file in another precision: which tensors change, how far they are off, what is refused, and what stays behind."""

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from steadydancer.base.cancel import Cancelled
from steadydancer.convert import numbers
from steadydancer.convert.recipe import steps
from steadydancer.convert.source import converted_path, open_source
from steadydancer.convert.write import convert
from steadydancer.formats.model_file import damage, foreign
from steadydancer.formats.safetensors_file import quantisation_formats, safetensors_header
from support import tiny

KEYS = "steadydancer_tiny.keys.tsv"
ALLOWED = {"int8_convrot": 0.012, "fp8_scaled": 0.04, "bf16": 0.003, "fp16": 0.0004}


def made(source: Path, to: str, target: Path | None = None, cancelled=lambda: False, progress=lambda *_: None):
    return convert(open_source(source), target or converted_path(source, to), to, progress, cancelled)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    return tiny.write_steadydancer(tmp_path_factory.mktemp("source") / "SteadyDancer_fp32.safetensors", "fp32")


def unpacked(tensors: dict, key: str) -> torch.Tensor:
    """The numbers of a layer by the published formulas, without comfy-kitchen."""
    weight, scale = tensors[key].float(), tensors.get(f"{key}_scale")
    if scale is None:
        return weight
    words = json.loads(bytes(tensors[key.removesuffix("weight") + "comfy_quant"].tolist()))
    if not words.get("convrot"):
        return weight * scale
    h4 = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2.0
    h = h4
    while len(h) < words["convrot_groupsize"]:
        h = torch.kron(h, h4)
    # rotated by H, which is orthogonal, from the right
    return ((weight * scale).unflatten(1, (-1, len(h))) @ h).flatten(1)


@pytest.mark.parametrize("to", ALLOWED)
def test_layers_change_and_what_the_network_needs_stays(fp32, tmp_path, to):
    report = made(fp32, to, tmp_path / f"dancer_{to}.safetensors")
    found, exact = load_file(report.path), tiny.weights(KEYS)
    assert set(exact) <= set(found) and report.new and report.bytes == report.path.stat().st_size
    assert not damage(report.path) and not foreign(safetensors_header(report.path))
    for key, tensor in exact.items():
        in_block = key.startswith("blocks.") and tensor.ndim == 2 and key.endswith(".weight")
        numbers_of = unpacked(found, key)
        error = ((numbers_of - tensor).norm() / tensor.norm()).item()
        if in_block:
            kind = {"int8_convrot": torch.int8, "fp8_scaled": torch.float8_e4m3fn, "bf16": torch.bfloat16}
            assert found[key].dtype == kind.get(to, torch.float16) and 0 < error < ALLOWED[to], key
        elif key.startswith(("condition_embedding_", "patch_embedding")) or tensor.ndim != 2:
            assert torch.equal(found[key], tensor), key
        else:
            assert found[key].dtype == (torch.bfloat16 if to == "bf16" else torch.float16) and error < 0.003, key
    if to in ("int8_convrot", "fp8_scaled"):
        assert quantisation_formats(report.path) == {{"int8_convrot": "int8_tensorwise"}.get(to, "float8_e4m3fn")}
        assert sum(name.endswith("comfy_quant") for name in found) == 24
    with safe_open(report.path, "pt") as file:
        words = file.metadata()
    assert words["steadydancer.converted_from"] == "SteadyDancer_fp32.safetensors"
    assert words["steadydancer.converted_to"].startswith(f"{to}, ") and words["format"] == "pt"


def test_int8_is_what_comfy_kitchen_makes_of_the_whole_layer(fp32, tmp_path, monkeypatch):
    """But for the last bit of a product: how a processor sums it may depend on how many rows there are."""
    from comfy_kitchen.tensor import TensorWiseINT8Layout

    monkeypatch.setattr(numbers, "PIECE", 5000)  # nineteen rows at a time
    found = load_file(made(fp32, "int8_convrot", tmp_path / "x.safetensors").path)
    for key in ("blocks.1.ffn.0.weight", "blocks.1.ffn.2.weight"):
        codes, params = TensorWiseINT8Layout.quantize(tiny.weights(KEYS)[key], per_channel=True, convrot=True)
        off = (found[key].int() - codes.int()).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < 1e-3
        torch.testing.assert_close(found[f"{key}_scale"], params.scale, rtol=1e-6, atol=0)
    assert bytes(found["blocks.1.ffn.0.comfy_quant"].tolist()) == (
        b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}'
    )


def test_a_16_bit_file_keeps_its_own_type(tmp_path):
    source = tiny.write_steadydancer(tmp_path / "wan_bf16.safetensors", "bf16")
    found = load_file(made(source, "int8_convrot").path)
    kinds = {tensor.dtype for key, tensor in found.items() if "quant" not in key and "scale" not in key.split(".")[-1]}
    assert kinds == {torch.bfloat16, torch.int8}


def test_widths_that_256_does_not_divide_are_rotated_in_smaller_groups_or_not_at_all(tmp_path):
    tensors = dict(tiny.weights(KEYS)) | {
        "blocks.0.self_attn.q.weight": torch.randn(256, 192),
        "blocks.0.self_attn.k.weight": torch.randn(256, 100),
        "extra.numbers": torch.arange(5),
        "extra.scalar": torch.tensor(3.5),
    }
    found = load_file(made(tiny.write(tmp_path / "odd_fp32.safetensors", tensors), "int8_convrot").path)
    words = [json.loads(bytes(found[f"blocks.0.self_attn.{name}.comfy_quant"].tolist())) for name in "qk"]
    assert words == [
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}, {"format": "int8_tensorwise"},
    ]  # fmt: skip
    assert torch.equal(found["extra.numbers"], torch.arange(5)) and found["extra.scalar"] == 3.5
    for name in "qk":
        key = f"blocks.0.self_attn.{name}.weight"
        assert (unpacked(found, key) - tensors[key]).norm() < 0.012 * tensors[key].norm()


def shards(folder: Path, count: int = 3) -> Path:
    """The tiny model as `count` files with an index, and the folder that holds them."""
    tensors = tiny.weights(KEYS)
    names = [f"diffusion_pytorch_model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    where = {key: names[n % count] for n, key in enumerate(tensors)}
    for name in names:
        tiny.write(folder / name, {key: tensors[key] for key in tensors if where[key] == name})
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def test_shards_make_the_same_file_whichever_way_they_are_named(tmp_path, fp32):
    folder = shards(tmp_path / "SteadyDancer-14B")
    first, index = folder / "diffusion_pytorch_model-00001-of-00003.safetensors", next(folder.glob("*.json"))
    expected = load_file(made(fp32, "int8_convrot", tmp_path / "one.safetensors").path)
    for path in (folder, first, index):
        target = converted_path(path, "int8_convrot")
        assert target == tmp_path / "SteadyDancer-14B_int8_convrot.safetensors"
        found = load_file(made(path, "int8_convrot", target).path)
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
        target.unlink()


def test_names_as_the_field_writes_them(tmp_path):
    names = {
        "Wan21_I2V_SteadyDancer_fp16.safetensors": "Wan21_I2V_SteadyDancer_int8_convrot.safetensors",
        "wan2.1_t2v_14B_bf16.safetensors": "wan2.1_t2v_14B_int8_convrot.safetensors",
        "wan2.2_i2v_high_noise_14B_fp16.safetensors": "wan2.2_i2v_high_noise_14B_int8_convrot.safetensors",
        "mine.safetensors": "mine_int8_convrot.safetensors",
    }
    for name, expected in names.items():
        assert converted_path(tmp_path / name, "int8_convrot") == tmp_path / expected
    blob = tmp_path / "blobs" / "0a1b2c"
    link = tmp_path / "linked_fp16.safetensors"
    blob.parent.mkdir()
    blob.touch()
    link.symlink_to(blob)
    assert converted_path(link, "int8_convrot") == tmp_path / "linked_int8_convrot.safetensors"


def test_what_cannot_be_converted_is_refused_in_a_sentence(fp32, tmp_path):
    from support.tiny_gguf import write_steadydancer_gguf

    whole = dict(tiny.weights(KEYS))
    spoilt = whole | {"blocks.1.ffn.0.weight": whole["blocks.1.ffn.0.weight"].clone()}
    spoilt["blocks.1.ffn.0.weight"][3, 5] = float("nan")
    large = whole | {"blocks.1.ffn.0.weight": whole["blocks.1.ffn.0.weight"] * 1e6}
    lora = {"blocks.0.ffn.0.lora_up.weight": torch.zeros(8, 4), "blocks.0.ffn.0.lora_down.weight": torch.zeros(4, 8)}
    folder = shards(tmp_path / "part")
    (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(fp32.read_bytes()[:-9])
    refused = {
        "quantised already: 'blocks.0.*' is F8_E4M3": tiny.write_steadydancer(tmp_path / "a.safetensors", "fp8_scaled"),
        "no safetensors file. Convert from": write_steadydancer_gguf(tmp_path / "b.gguf", "Q8_0"),
        "has no transformer blocks of Wan's kind": tiny.write(
            tmp_path / "c.safetensors", {"a.weight": torch.ones(4, 4)}
        ),
        "'blocks.1.ffn.0.weight' has numbers that are not finite": tiny.write(tmp_path / "d.safetensors", spoilt),
        "is a LoRA and not a model": tiny.write(tmp_path / "e.safetensors", lora),
        "is not a whole model": tiny.write(
            tmp_path / "f.safetensors", {key: whole[key] for key in whole if not key.startswith("blocks.0.")}
        ),
        "is cut short": cut,
        "is not beside it": folder,
        "no file or folder": tmp_path / "nowhere",
    }
    for words, path in refused.items():
        with pytest.raises(ValueError, match=words):
            made(path, "int8_convrot", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="cannot be converted to fp16.*not finite in float16"):
        made(tiny.write(tmp_path / "g.safetensors", large), "fp16", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="is fp16 already"):
        steps(open_source(tiny.write_steadydancer(tmp_path / "h_fp16.safetensors", "fp16")), "fp16")
    assert not list(tmp_path.glob("out.safetensors*[!k]"))


def test_somebodys_own_file_of_the_name_is_never_written_over(fp32, tmp_path):
    target = tmp_path / "mine.safetensors"
    save_file({"x": torch.ones(3)}, target)
    before = target.read_bytes()
    with pytest.raises(ValueError, match="mine.safetensors is here already and was not made from SteadyDancer_fp32"):
        made(fp32, "int8_convrot", target)
    assert target.read_bytes() == before


def test_made_once_it_is_not_made_again(fp32, tmp_path):
    first = made(fp32, "fp8_scaled", tmp_path / "x.safetensors")
    stamp = first.path.stat().st_mtime_ns
    again = made(
        fp32, "fp8_scaled", tmp_path / "x.safetensors", progress=lambda *_: pytest.fail("it was computed again")
    )
    assert not again.new and again.bytes == first.bytes and again.path.stat().st_mtime_ns == stamp
    first.path.write_bytes(first.path.read_bytes()[:-1])  # a copy that was cut off
    assert made(fp32, "fp8_scaled", tmp_path / "x.safetensors").new and not damage(first.path)


def test_another_training_of_the_same_network_is_another_source(fp32, tmp_path):
    tensors = dict(tiny.weights(KEYS)) | {"blocks.0.ffn.0.weight": tiny.weights(KEYS)["blocks.0.ffn.0.weight"] * 1.01}
    other = tiny.write(tmp_path / "SteadyDancer_fp32.safetensors", tensors)
    assert safetensors_header(other) == safetensors_header(fp32)
    target = made(fp32, "int8_convrot", tmp_path / "x.safetensors").path
    with pytest.raises(ValueError, match="x.safetensors is here already and was not made from"):
        made(other, "int8_convrot", target)


def test_cancel_and_progress(fp32, tmp_path):
    seen = []
    made(fp32, "bf16", tmp_path / "whole.safetensors", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1
    for stop in (1, len(seen) // 2, len(seen) - 1):
        calls = []
        pressed = lambda calls=calls, stop=stop: len(calls) >= stop  # noqa: E731
        with pytest.raises(Cancelled):
            made(fp32, "bf16", tmp_path / "x.safetensors", pressed, lambda *call, calls=calls: calls.append(call))
        assert len(calls) == stop, "not one more piece"
        assert {path.name for path in tmp_path.glob("x*")} == {"x.safetensors.lock"}


def test_a_disk_that_gives_back_other_bytes_is_found(fp32, tmp_path):
    """A byte is changed between writing and reading back, wherever it lies."""
    source, target = open_source(fp32), tmp_path / "x.safetensors"
    part, total = tmp_path / "x.safetensors.part", sum(tensor.bytes for tensor in open_source(fp32).tensors.values())

    for place in (100, -1, -5_000_000):

        def spoil(done: int, _: int) -> None:
            if done == total:  # all is read, and nothing compared
                with open(part, "r+b") as file:
                    file.seek(place, 0 if place > 0 else 2)  # noqa: B023
                    byte = file.read(1)
                    file.seek(-1, 1)
                    file.write(bytes([byte[0] ^ 1]))

        with pytest.raises(ValueError, match="does not give back what was written"):
            convert(source, target, "int8_convrot", spoil, lambda: False)
        assert not target.exists() and not part.exists()


def test_a_full_disk_is_told_before_anything_is_written(fp32, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 1 << 40, 70 << 20))
    with pytest.raises(ValueError, match="Not enough disk space: x.safetensors needs 0.0 GB, and 0.1 GB are free"):
        made(fp32, "int8_convrot", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors.part").exists()


def test_two_at_a_time_make_one_file(fp32, tmp_path):
    target, reports = tmp_path / "x.safetensors", []
    workers = [threading.Thread(target=lambda: reports.append(made(fp32, "int8_convrot", target))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(report.new for report in reports) == [False, True]
