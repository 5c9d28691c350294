"""The project's own files agree with each other and with the house style."""

import re
import subprocess
import sys

import pytest
from steadydancer.base.toml import tomllib
from support import ROOT


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_manager_and_registry_install_the_same():
    """Manager installs requirements.txt, the registry shows pyproject's list."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    requirements = [line.partition("#")[0].strip() for line in lines]
    assert [line for line in requirements if line] == project()["project"]["dependencies"]


def test_nothing_is_pinned_that_others_need_differently():
    for line in project()["project"]["dependencies"]:
        assert not re.match(r"(torch|torchvision|numpy|transformers|opencv|onnxruntime)\b", line), line
        assert not re.search(r"==|<|~=|@|--", line.partition(";")[0]), f"{line}: only lower bounds"


def test_registry_fields():
    data = project()
    assert data["project"]["name"] == "steadydancer"
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["project"]["version"])
    assert {"Repository", "Documentation", "Issues"} <= data["project"]["urls"].keys()
    comfy = data["tool"]["comfy"]
    assert comfy["requires-comfyui"] == ">=0.30.0"
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert "raw.githubusercontent.com" not in comfy.get("Icon", "")


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_style(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--quiet", str(ROOT)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_comment_points_at_a_paper_that_is_not_shipped():
    """A stranger has this repository only: "see design" leads nowhere."""
    dangling = re.compile(r"\bsee (the )?design\b|\bspecs\b", re.IGNORECASE)
    files = [path for ending in ("py", "toml", "js", "yml") for path in ROOT.rglob(f"*.{ending}")]
    files = [path for path in files if path.name != "test_project.py" and not path.is_relative_to(ROOT / ".git")]
    assert len(files) > 300
    assert not [str(path) for path in files if dangling.search(path.read_text("utf-8"))]
