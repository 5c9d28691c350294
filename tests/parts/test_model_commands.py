"""`cli.py list`, `verify`, `plan` and `download --dry-run` where some files are broken, and where ComfyUI has more folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import support
from steadydancer.catalog.names import quants
from support import tiny
from support.safetensors_header import write_hollow
from support.tiny_gguf import write_steadydancer_gguf

VAE, CLIP = "wan_2.1_vae.safetensors", "clip_vision_h.safetensors"


def command(program: Path, *args, cwd: Path, **variables) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MODELS_DIR": "", "COMFYUI_ARGS": "", **variables}
    return subprocess.run(
        [sys.executable, str(program), *map(str, args)],
        capture_output=True, text=True, timeout=120, env=environment, cwd=cwd,
    )  # fmt: skip


@pytest.fixture
def cli(tmp_path):
    return lambda *args, **variables: command(
        support.ROOT / "cli.py", *args, cwd=tmp_path, **{"MODELS_DIR": str(tmp_path / "models"), **variables}
    )


@pytest.fixture
def broken(tmp_path):
    """A models folder in which one file is whole and the others are what is met under their names."""
    models = tmp_path / "models"
    for folder in ("vae", "clip_vision", "diffusion_models", "text_encoders", "loras"):
        (models / folder).mkdir(parents=True)
    tiny.write_vae(models / "vae" / VAE)
    (models / "clip_vision" / CLIP).write_text("<!DOCTYPE html><html>Sign in</html>")
    (models / "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors").symlink_to(tmp_path / "gone")
    (models / "text_encoders/umt5_xxl_fp16.safetensors").mkdir()
    half = tiny.write_steadydancer(models / "diffusion_models/Wan21_I2V_SteadyDancer_fp16.safetensors", "fp16")
    os.truncate(half, half.stat().st_size // 2)
    (models / "diffusion_models/Wan21_I2V_SteadyDancer_fp16-Q4_K_M.gguf").touch()
    return models


WORDS = {
    CLIP: "is a web page",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": "is a link that leads nowhere",
    "umt5_xxl_fp16.safetensors": "is a folder and not a file",
    "Wan21_I2V_SteadyDancer_fp16.safetensors": "is cut short",
    "Wan21_I2V_SteadyDancer_fp16-Q4_K_M.gguf": "is empty",
}


def test_verify_names_every_broken_file_and_the_whole_one(cli, broken):
    done = cli("verify")
    assert done.returncode == 1 and not done.stderr
    for name, words in WORDS.items():
        (line,) = [line for line in done.stdout.splitlines() if line.partition(": it ")[0].endswith(name)]
        assert line.startswith("damaged") and words in line
    assert "1 whole" in done.stdout and f"{len(WORDS)} damaged or missing" in done.stdout
    assert f"ok       {(broken / 'vae' / VAE).stat().st_size:>16,}" in done.stdout
    trusted = cli("verify", "--trust")
    assert trusted.returncode == 1, "trust is no cure for what cannot be read"


def test_list_shows_what_is_broken(cli, broken):
    done = cli("list")
    assert done.returncode == 0 and not done.stderr
    for name, words in WORDS.items():
        assert any(line.startswith("broken: ") and name in line and words in line for line in done.stdout.splitlines())
    assert f"; {len(WORDS) + 1} of them here, " in done.stdout.splitlines()[-1]
    (row,) = [line for line in cli("list", "steadydancer").stdout.splitlines() if line.startswith("steadydancer-fp16 ")]
    assert " broken " in row


def test_dry_run_shows_what_would_be_fetched_again(cli, broken):
    done = cli("download", "clip-vision-h", "wan-2.1-vae", "steadydancer-fp16", "--dry-run")
    assert done.returncode == 0 and not done.stderr
    assert "0 of 3 files to fetch, 0 bytes" in done.stdout and "; 2 broken, " in done.stdout
    assert "present" in next(line for line in done.stdout.splitlines() if VAE in line)
    assert "broken" in next(line for line in done.stdout.splitlines() if CLIP in line)


def test_a_folder_under_a_files_name_is_told_before_anything_is_fetched(cli, broken):
    done = cli("download", "umt5-xxl-fp16", HF_HUB_OFFLINE="")
    assert done.returncode == 1
    assert "umt5_xxl_fp16.safetensors is a folder and not a file. Move it away" in done.stderr


def test_a_broken_file_does_not_end_the_plan(cli, broken):
    for variant in ("auto", "fp16", "Q4_K_M"):
        done = cli("plan", "--gpu", "RTX 4090", "--variant", variant)
        assert done.returncode in (0, 3) and not done.stderr and "sampling" in done.stdout


def test_all_parts_of_a_split_file_are_planned(cli, tmp_path):
    blocks = {f"blocks.{i}.ffn.0.weight": ("BF16", (8, 8), 400_000_000) for i in range(40)}
    names = [f"mine-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, these in zip(names, (range(20), range(20, 40))):
        write_hollow(tmp_path / name, {f"blocks.{i}.ffn.0.weight": blocks[f"blocks.{i}.ffn.0.weight"] for i in these})
    whole = write_hollow(tmp_path / "whole.safetensors", blocks)
    plans = [cli("plan", "--gpu", "RTX 4090", "--variant", name, "--json").stdout for name in (names[1], whole.name)]
    assert plans[0].replace(names[1], whole.name) == plans[1] and "transient" in plans[0]
    (tmp_path / names[0]).unlink()
    done = cli("plan", "--gpu", "RTX 4090", "--variant", names[1])
    assert done.returncode == 1 and f"{names[0]} is not beside it" in done.stderr


def test_a_lora_that_is_not_there_is_named(cli):
    done = cli("plan", "--gpu", "RTX 4090", "--lora", "nowhere.pt")
    assert done.returncode == 1 and done.stderr == "There is no file nowhere.pt. Choose another LoRA.\n"


@pytest.fixture
def install(tmp_path):
    """As much of a ComfyUI as the commands look at, with this package linked in, and models in a shared folder."""
    comfyui, shared = tmp_path / "ComfyUI", tmp_path / "shared"
    (comfyui / "custom_nodes").mkdir(parents=True)
    (comfyui / "models").mkdir()
    (comfyui / "main.py").touch()
    (comfyui / "custom_nodes/steadydancer").symlink_to(support.ROOT)
    tiny.write_vae(shared / "VAEs" / VAE)
    (comfyui / "extra_model_paths.yaml").write_text(f"all:\n  base_path: {shared}\n  is_default: true\n  vae: VAEs\n")
    return comfyui


def test_the_extra_folders_of_the_comfyui_that_the_package_is_in(install, tmp_path):
    program = install / "custom_nodes/steadydancer/cli.py"
    assert "; 1 of them here, " in command(program, "list", cwd=tmp_path).stdout
    done = command(program, "download", "wan-2.1-vae", "--dry-run", cwd=tmp_path)
    assert "0 of 1 files to fetch" in done.stdout
    done = command(program, "verify", "wan-2.1-vae", cwd=tmp_path)
    assert done.returncode == 0 and str(tmp_path / "shared/VAEs" / VAE) in done.stdout
    elsewhere = command(program, "verify", "wan-2.1-vae", cwd=tmp_path, MODELS_DIR=str(tmp_path / "mine"))
    assert elsewhere.returncode == 0, "MODELS_DIR says where new files go; what ComfyUI finds is found"


def test_the_link_counts_also_from_inside(install, tmp_path):
    """`cd custom_nodes/steadydancer; python cli.py list`: the shell says where it is, the system where the link leads."""
    folder = install / "custom_nodes/steadydancer"
    assert "; 1 of them here, " in command(Path("cli.py"), "list", cwd=folder, PWD=str(folder)).stdout
    done = command(Path("cli.py"), "verify", cwd=support.ROOT, PWD=str(install / "custom_nodes"))
    assert done.returncode == 1 and "is not known here" in done.stderr, "another folder's name is not believed"


@pytest.mark.parametrize("words", [["list"], ["verify", "wan-2.1-vae"], ["download", "wan-2.1-vae", "--dry-run"]])
def test_comfyui_is_named_where_it_cannot_be_known(cli, install, words):
    assert "wan_2.1_vae" not in cli(*words, MODELS_DIR="").stdout.replace("missing", "")
    done = cli(*words, "--comfyui", install)
    assert done.returncode == 0
    assert "1 of them here" in done.stdout or "1 whole" in done.stdout or "0 of 1 files to fetch" in done.stdout
    wrong = cli(*words, "--comfyui", install.parent)
    assert wrong.returncode == 1 and "it has no main.py" in wrong.stderr


def test_select_sees_what_is_in_extra_folders(cli, install, tmp_path):
    """The first choice is fp8; the second, one step from it, is taken where it is here."""
    words = ("select", "--gpu", "RTX 4090", "--preference", "balanced")
    first = cli(*words, MODELS_DIR="").stdout
    folder = tmp_path / "shared" / "dancers"
    folder.mkdir()
    (install / "extra_model_paths.yaml").write_text(
        f"all:\n  base_path: {tmp_path / 'shared'}\n  diffusion_models: |\n    dancers\n"
    )
    assert cli(*words, "--comfyui", install).stdout == first
    whole = write_steadydancer_gguf(tmp_path / "any.gguf", "Q4_K").read_bytes()
    for quant in quants("steadydancer"):
        (folder / f"Wan21_I2V_SteadyDancer_fp16-{quant}.gguf").write_bytes(whole)
    done = cli(*words, "--comfyui", install)
    assert done.returncode == 0 and "it is already here" in done.stdout and done.stdout != first


def test_flags_of_the_server_count_too(cli, install, tmp_path):
    config = tmp_path / "desktop.yaml"
    shutil.move(install / "extra_model_paths.yaml", config)
    assert "1 of them here" in cli("list", COMFYUI_ARGS=f"--lowvram --extra-model-paths-config {config}").stdout
    (tmp_path / "base/models/vae").mkdir(parents=True)
    shutil.copy(tmp_path / "shared/VAEs" / VAE, tmp_path / "base/models/vae" / VAE)
    flags = f"--base-directory {tmp_path / 'base'}"
    assert "1 of them here" in cli("list", MODELS_DIR="", COMFYUI_ARGS=flags).stdout


def test_an_extra_file_that_cannot_be_read_is_named(cli, install):
    (install / "extra_model_paths.yaml").write_text("all: [")
    for words in (["list"], ["verify"], ["download", "wan-2.1-vae", "--dry-run"], ["plan", "--gpu", "RTX 4090"]):
        done = cli(*words, "--comfyui", install)
        assert done.returncode == 1 and "extra_model_paths.yaml is no valid YAML, line 1. Correct it." in done.stderr


def test_bare_python_reads_the_usual_extra_file(install, tmp_path):
    program = install / "custom_nodes/steadydancer/cli.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program), "list"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "; 1 of them here, " in done.stdout
