"""The developer's environment: the lock is complete, a broken environment is told by name and thrown away."""

import os
import re
import subprocess
import sys
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from steadydancer.tools import comfyui, environment
from support import ROOT

ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\\n]+?))? \\\n", re.MULTILINE)
MACHINES = [
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
    {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def locked(python: str, machine: dict[str, str]) -> dict[str, Version]:
    """What the lock installs there, by name."""
    place = machine | {"python_version": python, "python_full_version": f"{python}.0"}
    entries = {}
    for name, version, marker in ENTRY.findall(environment.LOCK.read_text("utf-8")):
        if not marker or Requirement(f"{name} ; {marker}").marker.evaluate(place):
            assert name not in entries, f"{name} twice for Python {python} on {machine['sys_platform']}"
            entries[canonicalize_name(name)] = Version(version)
    return entries


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: f"{machine['sys_platform']}-{machine['platform_machine']}"
)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_what_is_asked_for(python, machine):
    entries = locked(python, machine)
    place = machine | {"python_version": python, "python_full_version": f"{python}.0"}
    asked = []
    for file in [*environment.requirements(comfyui.find_cached()), environment.TORCH_SET]:
        for line in file.read_text("utf-8").splitlines():
            if line := line.partition("#")[0].strip():
                asked.append(Requirement(line))
    assert len(asked) > 40
    for want in asked:
        if want.marker is None or want.marker.evaluate(place):
            assert want.specifier.contains(entries[canonicalize_name(want.name)], prereleases=True), want


def test_every_line_of_the_lock_has_a_hash_and_none_an_address():
    text = environment.LOCK.read_text("utf-8")
    assert "://" not in text and "index" not in text
    blocks = re.split(r"\n(?=[\w.-]+==)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(blocks) == len(ENTRY.findall(text)) > 150
    for block in blocks:
        assert re.search(r"\\\n +--hash=sha256:[0-9a-f]{64}", block), block
    assert environment.made_for(environment.LOCK) == environment.digest(
        [*environment.requirements(comfyui.find_cached()), environment.TORCH_SET]
    )


@pytest.mark.parametrize("python", PYTHONS)
def test_torch_torchvision_and_torchaudio_are_one_set(python):
    """torchvision 0.N+15 and torchaudio 2.N belong to torch 2.N, patch releases too."""
    for machine in MACHINES:
        entries = locked(python, machine)
        torch, vision, audio = entries["torch"], entries["torchvision"], entries["torchaudio"]
        assert (torch.major, audio.release) == (2, torch.release)
        assert vision.release == (0, torch.minor + 15, torch.micro)


def test_this_environment_is_the_locked_one():
    """What is installed here came from the lock, where the lock was made for the ComfyUI in use."""
    if environment.made_for(environment.LOCK) != environment.digest(
        [*environment.requirements(comfyui.find()), environment.TORCH_SET]
    ):
        pytest.skip("another ComfyUI or the newest releases are being tested")
    text = environment.LOCK.read_text("utf-8")
    pairs = {(canonicalize_name(name), Version(version)) for name, version, _ in ENTRY.findall(text)}
    here = {(canonicalize_name(package.name), Version(package.version)) for package in distributions()}
    assert {pair for pair in here if pair[0] not in ("pip", "setuptools")} <= pairs


BREAKS = {
    "wants-symbols-of-another-torch": (
        "torchaudio",
        "raise OSError('libtorchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace')",
        "torchaudio 9.9.9 fails. OSError: libtorchaudio.so: undefined symbol",
    ),
    "crashes": ("torchvision", "import os; os.abort()", "torchvision 9.9.9 fails. it ended with exit code -6"),
}
# dev.py, but what it installs is an environment like this one, in front of which one package is broken.
DEV_WITH_BROKEN_PACKAGE = """
import subprocess, sys, sysconfig
from pathlib import Path
root, name, code = sys.argv[1:]
sys.path.insert(0, root)
import dev

def fill(folder, interpreter, comfyui_path, lock, borrowed):
    subprocess.run([interpreter, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = Path(folder, "lib", "python" + sysconfig.get_python_version(), "site-packages")
    (packages / "real.pth").write_text(sysconfig.get_path("purelib"))
    (packages / name).mkdir()
    (packages / name / "__init__.py").write_text(code)
    (packages / (name + "-9.9.9.dist-info")).mkdir()
    (packages / (name + "-9.9.9.dist-info") / "METADATA").write_text(f"Name: {name}\\nVersion: 9.9.9\\n")

dev.environment.fill = fill
sys.exit(dev.main(["run", "--", "python", "-c", "print('it ran')"]))
"""


@pytest.mark.parametrize("name, code, sentence", BREAKS.values(), ids=BREAKS)
@pytest.mark.skipif(sys.platform == "win32", reason="exit codes and folders of a Unix environment")
def test_a_broken_environment_is_told_and_thrown_away(tmp_path, name, code, sentence):
    variables = {**os.environ, "COMFYUI_PATH": str(comfyui.find()), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", DEV_WITH_BROKEN_PACKAGE, str(ROOT), name, code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert sentence in done.stderr and "It was thrown away." in done.stderr and "python dev.py lock" in done.stderr
    assert "it ran" not in done.stdout
    assert not list(tmp_path.rglob("env-*")) and not list(tmp_path.rglob("ready"))
