"""cli.py plan, and the headers that it reads: a model's bytes by block without loading it."""

import json
import struct

import pytest
from steadydancer import cli
from steadydancer.planning.model_sizes import header, lora_bytes, model_of, stored_bytes
from support.safetensors_header import write_hollow


def run(capsys, *arguments, code=0) -> str:
    assert cli.main(["plan", *arguments]) == code
    done = capsys.readouterr()
    return done.out + done.err


def blocks(count: int, kind: str, size: int) -> dict:
    return {f"blocks.{i}.ffn.0.weight": (kind, (size,), size) for i in range(count)}


def test_the_table_of_one_card(capsys):
    out = run(capsys, "--family", "steadydancer", "--variant", "fp8", "--size", "1024x576", "--gpu", "RTX 4080 SUPER")
    assert out.startswith("steadydancer/fp8 at 1024×576 with 81 frames, 40 steps, on RTX 4080 SUPER: fits with changes")
    assert [line.split("  ")[0] for line in out.splitlines()[3:10]] == [
        "encoding the text", "encoding the picture", "finding the poses", "encoding the video", "sampling",
        "decoding the video", "holding the frames",
    ]  # fmt: skip
    assert "estimates: " in out and "at $0.25 an hour" in out


def test_the_matrix_and_json(capsys):
    assert len(run(capsys, "--all-gpus").splitlines()) >= 14
    assert len(json.loads(run(capsys, "--all-gpus", "--variant", "Q4_K_M", "--json"))) >= 12


def test_what_does_not_fit_has_its_own_exit_code(capsys):
    assert "does not fit" in run(capsys, "--gpu", "RTX 4060", "--size", "1920x1088", "--frames", "161", code=3)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--gpu", "Voodoo"], "no card of the table"),
        (["--gpu", "4090", "--variant", "Q9"], "has no variant 'Q9'. Choose one of"),
        (["--gpu", "4090", "--size", "big"], "is not a size; write WIDTHxHEIGHT"),
        (["--gpu", "4090", "--size", "833x480"], "multiples of 16"),
        (["--gpu", "4090", "--family", "wan2.1"], "Say which variant of wan2.1"),
    ],
)
def test_wrong_arguments_get_a_sentence(capsys, arguments, what):
    assert what in run(capsys, *arguments, code=1)


def test_a_users_own_file_is_read_by_its_header(capsys, tmp_path):
    path = write_hollow(
        tmp_path / "mine.safetensors",
        blocks(40, "F8_E4M3", 300_000_000) | {"head.head.weight": ("F32", (10,), 900_000_000)},
    )
    model = model_of(str(path), [path])
    assert (model.precision, model.blocks, model.block_bytes, model.other_bytes) == (
        "fp8",
        40,
        300_000_000,
        900_000_000,
    )
    assert "mine.safetensors at 832×480" in run(capsys, "--gpu", "4090", "--variant", str(path))


def test_shards_count_together(tmp_path):
    first = write_hollow(tmp_path / "1.safetensors", blocks(2, "F32", 1000))
    second = write_hollow(
        tmp_path / "2.safetensors", {"blocks.1.norm.weight": ("F32", (5,), 500), "x": ("F32", (1,), 70)}
    )
    found = stored_bytes([first, second])
    assert (found.blocks, found.block_bytes, found.other_bytes, found.precision) == (2, 1500, 70, "fp32")


def test_a_gguf_file_is_read_by_its_header(tmp_path):
    from support.tiny_gguf import write_steadydancer_gguf

    path = tmp_path / "tiny-Q4_K.gguf"
    write_steadydancer_gguf(path, "Q4_K")
    found = stored_bytes([path])
    assert found.precision == "Q4_K" and found.blocks == 2
    assert 0 < found.blocks * found.block_bytes + found.other_bytes <= path.stat().st_size


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<Q", 1 << 40), struct.pack("<Q", 5) + b"{nope"])
def test_a_damaged_file_is_refused(tmp_path, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="bad.safetensors is damaged"):
        header(path)


def test_a_file_without_blocks_is_refused(tmp_path):
    path = write_hollow(tmp_path / "vae.safetensors", {"decoder.conv1.weight": ("F32", (1,), 4)})
    with pytest.raises(ValueError, match="no transformer blocks"):
        stored_bytes([path])


def test_loras_are_counted_in_sixteen_bits(tmp_path):
    path = write_hollow(tmp_path / "l.safetensors", {"a": ("F32", (1,), 400), "b": ("BF16", (1,), 100)})
    assert lora_bytes([path]) == 300


def test_a_lora_on_the_command_line_takes_its_room(capsys, tmp_path):
    path = write_hollow(tmp_path / "l.safetensors", {"a": ("BF16", (1,), 700_000_000)})
    plans = [
        json.loads(run(capsys, "--gpu", "4090", "--variant", "fp8", "--json", *more))
        for more in ([], ["--lora", str(path)])
    ]
    assert plans[1]["job"]["lora_bytes"] == 700_000_000
    assert plans[1]["phases"][4]["transient"] >= plans[0]["phases"][4]["transient"] + 700_000_000
