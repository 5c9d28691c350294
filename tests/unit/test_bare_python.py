"""What must work with nothing installed: neither ComfyUI nor any other package."""

import subprocess
import sys

import pytest
from steadydancer import cli
from support import ROOT

NEEDS_TOML = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 needs tomli, see the test of its absence"
)


def bare_python(*arguments: str) -> subprocess.CompletedProcess:
    """Runs Python without site-packages (-S), environment variables and current folder (-I)."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *arguments], capture_output=True, text=True, encoding="utf-8", timeout=60
    )


@NEEDS_TOML
@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_command_line_help_needs_only_the_standard_library(command):
    done = bare_python(str(ROOT / "cli.py"), *([command] if command else []), "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: cli.py" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--gpu", "RTX 4090"], ["download", "--help"]])
def test_python_3_10_without_tomli_is_told_what_to_do(arguments):
    """Any Python plays it: one that hides its own reader."""
    hide = "import runpy, sys; sys.modules['tomllib'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    done = bare_python("-c", hide, str(ROOT / "cli.py"), *arguments)
    assert done.returncode == 1 and "pip install tomli" in done.stderr and "Traceback" not in done.stderr


@NEEDS_TOML
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_planning_needs_only_the_standard_library(tmp_path, kind):
    """On a laptop: by the catalogue, and by the header of a file."""
    from support.safetensors_header import write_hollow
    from support.tiny_gguf import write_steadydancer_gguf

    path = tmp_path / f"mine.{kind}"
    if kind == "gguf":
        write_steadydancer_gguf(path, "Q4_K")
    else:
        write_hollow(path, {f"blocks.{i}.ffn.0.weight": ("BF16", (8, 8), 128) for i in range(40)})
    for variant in ("auto", str(path)):
        done = bare_python(str(ROOT / "cli.py"), "plan", "--gpu", "RTX 4090", "--variant", variant)
        assert done.returncode == 0, done.stderr
        assert "sampling" in done.stdout and "estimates: " in done.stdout


@NEEDS_TOML
def test_converting_says_what_it_needs(tmp_path):
    """The source is looked at first, which needs nothing."""
    from support import tiny

    source = tiny.write_steadydancer(tmp_path / "dancer_fp16.safetensors", "fp16")
    done = bare_python(str(ROOT / "cli.py"), "convert", str(source), "--to", "int8_convrot")
    assert done.returncode == 1 and "needs the Python package torch, which comes with ComfyUI" in done.stderr
    done = bare_python(str(ROOT / "cli.py"), "convert", str(tmp_path / "none"), "--to", "int8_convrot")
    assert done.returncode == 1 and "There is no file or folder" in done.stderr


def test_developer_door_needs_only_the_standard_library():
    done = bare_python(str(ROOT / "dev.py"), "--help")
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout


def test_package_loads_without_comfyui():
    load = "import runpy; runpy.run_path({!r})['load_package'](); import steadydancer, sys; print(len(sys.modules))"
    done = bare_python("-c", load.format(str(ROOT / "cli.py")))
    assert done.returncode == 0, done.stderr


def test_root_is_not_importable():
    """With the root on sys.path, our nodes/ would hide ComfyUI's nodes.py."""
    assert str(ROOT) not in sys.path
    assert "" not in sys.path
