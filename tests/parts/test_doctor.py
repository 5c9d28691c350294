"""`cli.py doctor` on machines that are not fit: what it finds, what it advises, and with which code it ends."""

import contextlib
import json
import shutil
from types import SimpleNamespace

import psutil
import pytest
import torch
from steadydancer import cli
from steadydancer.catalog.catalog import catalogue
from steadydancer.loaders.download import room
from support import tiny
from support.hub import Hub
from support.s3_server import StrictS3

UNFIT = {"software": 10, "card": 11, "memory": 12, "disk": 13, "network": 14, "bucket": 15, "models": 16}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    (source,) = catalogue().files["steadydancer-fp8"].sources
    tiny.write_steadydancer(root / source.where / source.path, "fp16")
    hub = Hub(root)
    yield hub
    hub.stop()


@pytest.fixture
def s3(tmp_path):
    with StrictS3(tmp_path / "s3").running() as server:
        yield server


@pytest.fixture
def doctor(hub, tmp_path, monkeypatch, capsys):
    """doctor(*options) → (exit code, the findings as {what: found, verdict and advice}), with a fit ComfyUI at hand."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * 10**9, available=60 * 10**9))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12, total=10**12))
    home = tmp_path / "ComfyUI"
    (home / "models").mkdir(parents=True)
    (home / "main.py").touch()
    (home / "comfyui_version.py").write_text('__version__ = "0.33.0"')

    def run(*options):
        code = cli.main(["doctor", "--json", "--comfyui", str(home), *options])
        found = json.loads(capsys.readouterr().out)
        assert found["fit"] is (code == 0)
        return code, {f["what"]: (f["found"], f["verdict"], f["advice"]) for f in found["findings"]}

    run.home = home
    return run


def no_card(*options):
    return (*options, "--skip", "card")


def test_a_fit_machine(doctor):
    code, found = doctor(*no_card())
    assert code == 0, found
    assert found["ComfyUI"][0].startswith("0.33.0") and found["Hub"][1] == "good" and found["RAM"][1] == "good"
    assert found["missing"][1] == "look", "what can still be fetched is no fault"


def test_no_card(doctor, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, found = doctor()
    assert code == UNFIT["card"] and "no GPU that torch can use" in found["GPU"][0]


def test_an_old_comfyui(doctor):
    (doctor.home / "comfyui_version.py").write_text('__version__ = "0.3.59"')
    code, found = doctor(*no_card())
    assert code == UNFIT["software"]
    assert found["ComfyUI"] == (f"0.3.59, {doctor.home}", "bad", "Update it to 0.30.0 or newer: these nodes need it.")


def test_no_compiler(doctor, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    code, found = doctor(*no_card())
    assert code == 0 and found["Triton"][1] == "look" and "apt install gcc" in found["Triton"][2]


def test_a_full_disk(doctor, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9, total=10**12))
    code, found = doctor(*no_card())
    assert code == UNFIT["disk"] and "1.0 GB free, 25.0 GB to fetch" in found["models"][0]
    assert "it needs 25.0 GB more" in found["models"][2]


def test_what_is_made_here_needs_its_source_too(doctor, monkeypatch):
    monkeypatch.setenv("STEADYDANCER_VARIANT", "int8_convrot")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=40 * 10**9, total=10**12))
    code, found = doctor(*no_card())
    assert code == UNFIT["disk"] and "57.8 GB to fetch and to make" in found["models"][0], found


@pytest.mark.parametrize("name", ["STEADYDANCER_VARIANT", "GPU_TIER"])
def test_a_variable_that_says_nonsense_is_a_finding(doctor, monkeypatch, name):
    monkeypatch.setenv(name, "foo")
    code, found = doctor(*no_card())
    assert code == UNFIT["disk"] and "foo" in found["not looked at"][0] and found["profile"][1] == "look"


def test_a_drive_that_is_not_there(doctor, monkeypatch):
    monkeypatch.setattr(room.Path, "exists", lambda path: False)
    code, found = doctor(*no_card())
    assert code == UNFIT["disk"] and "There is no drive" in found["not looked at"][0]


def test_a_container_of_4_gb(doctor, monkeypatch):
    from steadydancer.machine import memory

    real = memory.number
    limit = lambda file, otherwise=1 << 62: 4 * 10**9 if file.name == "memory.max" else real(file, otherwise)  # noqa: E731
    monkeypatch.setattr(memory, "number", limit)
    code, found = doctor(*no_card())
    assert code == UNFIT["memory"] and found["RAM"][0].startswith("4.0 GB")


def test_ram_for_a_card_that_holds_the_whole_model(doctor, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=13 * 10**9, available=12 * 10**9))
    code, found = doctor(*no_card())
    assert code == 0 and found["RAM"][1] == "look"


@pytest.mark.parametrize(("address", "word"), [("http://127.0.0.1:9", "Check the network"), ("host", "https://")])
def test_no_network(doctor, monkeypatch, address, word):
    monkeypatch.setenv("HF_ENDPOINT", address)
    code, found = doctor(*no_card())
    assert code == UNFIT["network"] and word in found["Hub"][0]


def test_a_wrong_bucket_key(doctor, s3, monkeypatch):
    for name, value in (s3.profile | {"R2_SECRET_ACCESS_KEY": "CANARY"}).items():
        monkeypatch.setenv(name, value)
    code, found = doctor(*no_card())
    assert code == UNFIT["bucket"] and "Copy the secret again" in found["profile"][0]
    assert "CANARY" not in str(found) and s3.key_id not in str(found)


def test_a_bucket_that_works(doctor, s3, monkeypatch):
    for name, value in s3.profile.items():
        monkeypatch.setenv(name, value)
    code, found = doctor(*no_card())
    assert code == 0 and found["profile"] == (f"env, bucket {s3.profile['R2_BUCKET']}: can be written", "good", "")


def test_a_damaged_model(doctor):
    folder = doctor.home / "models" / "vae"
    folder.mkdir()
    (folder / "wan_2.1_vae.safetensors").write_text("<!DOCTYPE html>not found")
    code, found = doctor(*no_card())
    assert code == UNFIT["models"] and "wan_2.1_vae" in found["damaged"][0]
    assert found["damaged"][2] == "Fetch it again: cli.py download steadydancer"


@pytest.mark.parametrize("fault", ["none", "wrong numbers"])
def test_kernels_that_disagree(monkeypatch, fault):
    """Shown in Triton's interpreter, on a CPU that passes for a capable card."""
    pytest.importorskip("triton")
    from steadydancer.commands.checks import kernels
    from steadydancer.quant import trials, triton_kernels

    monkeypatch.setattr(trials, "found", {})
    monkeypatch.setattr(trials, "said", set())
    monkeypatch.setattr(trials, "capable", lambda device, dtype: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    if fault != "none":
        monkeypatch.setattr(triton_kernels, "dequantise", lambda packed, number, out: out.zero_())
    half = {finding.what: finding for finding in kernels(torch.device("cpu"))}["kernels float16"]
    if fault == "none":
        assert half.found == "as PyTorch computes" and half.verdict == "good"
    else:
        assert "Q4_K" in half.found and half.verdict == "look" and "slower" in half.advice


def test_people_read_lines(doctor, capsys):
    assert cli.main(["doctor", "--comfyui", str(doctor.home), "--skip", "card"]) == 0
    out = capsys.readouterr().out
    assert "ok    software  ComfyUI          0.33.0" in out and out.endswith("This machine is fit.\n")
