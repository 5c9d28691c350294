"""`cli.py convert` and what `cli.py download` says of a file that nobody publishes, as a person runs them."""

import os
import subprocess
import sys

import pytest
from steadydancer.catalog.catalog import catalogue
from steadydancer.formats.model_file import damage
from steadydancer.formats.safetensors_file import safetensors_header
from support import ROOT, tiny


def cli(*arguments, **variables) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def models(tmp_path):
    tiny.provide(tmp_path / "models", "diffusion_models/Wan21_I2V_SteadyDancer_fp16.safetensors")
    return tmp_path / "models"


def test_a_variant_that_is_here_is_converted_beside_it(models):
    done = cli("convert", "steadydancer/fp16", "--to", "int8_convrot", "--models-dir", models)
    made = models / "diffusion_models" / catalogue().files["steadydancer-int8_convrot"].name
    assert done.returncode == 0, done.stderr
    assert str(made) in done.stdout and "tensors were changed, the most by 0." in done.stdout
    assert not damage(made) and "blocks.0.ffn.0.comfy_quant" in safetensors_header(made)
    again = cli("convert", "steadydancer/fp16", "--to", "int8_convrot", "--models-dir", models)
    assert again.returncode == 0 and "was here already, made from the same file" in again.stdout
    fetched = cli("download", "steadydancer-int8_convrot", "--dry-run", "--models-dir", models)
    assert f"{made.name}" in fetched.stdout and "present" in fetched.stdout and "is made here" not in fetched.stdout


def test_another_folder_or_name_may_be_given(models, tmp_path):
    source = models / "diffusion_models" / "Wan21_I2V_SteadyDancer_fp16.safetensors"
    folder = tmp_path / "other"
    folder.mkdir()
    for output, expected in (
        (folder, folder / "Wan21_I2V_SteadyDancer_fp8_scaled.safetensors"),
        (folder / "mine.safetensors", folder / "mine.safetensors"),
    ):
        done = cli("convert", source, "--to", "fp8_scaled", "--output", output)
        assert done.returncode == 0 and expected.is_file(), done.stderr


def test_what_is_not_here_is_named_with_the_command_that_fetches_it(tmp_path):
    (tmp_path / "models").mkdir()
    done = cli("convert", "steadydancer/fp16", "--to", "int8_convrot", "--models-dir", tmp_path / "models")
    assert done.returncode == 1
    assert "steadydancer/fp16 is not here. Fetch it first: cli.py download steadydancer-fp16" in done.stderr
    fetched = cli("download", "steadydancer/int8_convrot", "--dry-run", "--models-dir", tmp_path / "models")
    assert fetched.returncode == 0, fetched.stderr
    assert "Wan21_I2V_SteadyDancer_fp16.safetensors" in fetched.stdout and "about 32,800,000,000" in fetched.stdout
    assert "convert steadydancer/fp16 --to int8_convrot (or when it is first loaded)" in fetched.stdout
