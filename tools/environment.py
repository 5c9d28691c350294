"""The developer's environment: made once from the lock, proved before it counts as ready, thrown away where it fails.

The lock is `tests/requirements.lock`: names, exact versions and hashes of all that is installed, for Python 3.10 to 3.13 on
Linux, Windows and macOS. It fits the cached ComfyUI. Another ComfyUI, or the newest releases, are resolved when asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

from . import comfyui
from .comfyui import ROOT, only_one
from .problem import Problem

LOCK = ROOT / "tests" / "requirements.lock"
WANTED = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")
TORCH_SET = ROOT / "tests" / "torch.txt"  # left out where the newest releases are wanted
GB = 9  # torch with its CUDA libraries is most of it


def python_of(folder: Path) -> str:
    """The Python of an environment in `folder`."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def make(comfyui_path: Path, interpreter: str = sys.executable, newest: bool = False) -> Path:
    """The folder of the environment in which `interpreter` runs `comfyui_path`, made if it is not there yet.

    `newest` ignores the lock. Raises Problem where it cannot be made, or does not work when it is made.
    """
    with only_one():
        borrowed = borrowed_packages(comfyui_path) if interpreter == sys.executable and not newest else []
        lock = None if borrowed else lock_for(comfyui_path, newest)
        what = lock.read_text("utf-8") if lock else "\n".join(map(str, borrowed))
        version = subprocess.check_output(
            [interpreter, "-c", "import sys; print(sys.version, sys.base_prefix)"], text=True
        )
        folder = comfyui.cache_folder() / f"env-{hashlib.sha256((version + what).encode()).hexdigest()[:12]}"
        if not (folder / "ready").exists():
            build(folder, interpreter, comfyui_path, lock, borrowed)
    return folder


def build(folder: Path, interpreter: str, comfyui_path: Path, lock: Path | None, borrowed: list[str]) -> None:
    """Fills `folder` and proves it; the file `ready` is written last, and a folder without it is thrown away."""
    shutil.rmtree(folder, ignore_errors=True)
    if not borrowed:
        require_space(folder.parent)
    print(f"Making the environment, once, in {folder}", file=sys.stderr)
    try:
        fill(folder, interpreter, comfyui_path, lock, borrowed)
        prove(folder, comfyui_path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "ready").write_text(str(lock or "borrowed"), encoding="utf-8")


def fill(folder: Path, interpreter: str, comfyui_path: Path, lock: Path | None, borrowed: list[str]) -> None:
    """Installs the lock, or beside a Python that already runs the user's ComfyUI what that one lacks."""
    uv = None if borrowed else find_uv()
    python = python_of(folder)
    try:
        if uv:
            install([uv, "venv", "--quiet", "--no-config", "--python", interpreter, str(folder)])
            installer = [uv, "pip", "install", "--no-config", "--python", python]
        else:
            install([interpreter, "-m", "venv", str(folder)])
            installer = [python, "-m", "pip", "install", "--progress-bar", "off"]
        if borrowed:
            where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
            packages = subprocess.check_output(where, text=True).strip()
            Path(packages, "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
            wanted = [argument for file in requirements(comfyui_path) for argument in ("-r", str(file))]
            install([*installer, *wanted])
        else:
            install([*installer, "--no-deps", "--require-hashes", "-r", str(lock)])
    except subprocess.CalledProcessError as err:
        raise Problem(
            "The environment could not be made; the lines above say why. Most often the package registry cannot be "
            f"reached, or less than {GB} GB are free. Nothing half-made is kept: put it right and run the same command "
            "again."
        ) from err


def prove(folder: Path, comfyui_path: Path) -> None:
    """Runs what everything else stands on. Raises Problem that names the package, its version and what to do."""
    command = [python_of(folder), str(ROOT / "tools" / "prove.py"), str(comfyui_path), str(ROOT / "cli.py")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    lines = done.stdout.splitlines() or ["Python itself"]  # the last one is what was being tried
    reason = (done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"])[-1]
    raise Problem(
        f"The environment was installed but does not work: {lines[-1]} fails. {reason}\n"
        "It was thrown away. Run the same command again; if it fails again with the lock as it is in the repository, "
        "this machine lacks what the package needs (the line above says what), or the lock is wrong: "
        "`python dev.py lock` makes a new one."
    )


# The lock


def lock_for(comfyui_path: Path, newest: bool) -> Path:
    """The checked-in lock where it was made for these requirements, else one that is resolved now and kept."""
    files = requirements(comfyui_path)
    if not newest and made_for(LOCK) == digest([*files, TORCH_SET]):
        return LOCK
    if not newest and comfyui_path == comfyui.cached():
        raise Problem(
            f"{LOCK.name} was made for other requirements than those in this folder. Run `python dev.py lock` and commit "
            "what it writes."
        )
    files += [] if newest else [TORCH_SET]
    target = comfyui.cache_folder() / f"{'newest' if newest else 'other'}-{digest(files)[:12]}.lock"
    if newest or not target.exists():
        resolve(files, target)
    return target


def write_lock(comfyui_path: Path) -> None:
    """Resolves the checked-in lock anew, with the newest releases that the requirements allow."""
    resolve([*requirements(comfyui_path), TORCH_SET], LOCK)


def resolve(files: list[Path], target: Path) -> None:
    """Writes the releases and hashes that satisfy `files` on every platform to `target`."""
    uv = find_uv()
    if uv is None:
        raise Problem("Resolving needs uv, which could not be installed. Install it (`pip install uv`) and try again.")
    print(f"Resolving {', '.join(file.name for file in files)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, "lock.txt")
        options = ["--universal", "--python-version", "3.10", "--generate-hashes", "--no-annotate", "--no-header"]
        options += ["--no-emit-index-url", "--no-emit-find-links", "--no-config", "--quiet"]
        try:
            install([uv, "pip", "compile", *options, *map(str, files), "--output-file", str(fresh)])
        except subprocess.CalledProcessError as err:
            raise Problem("The requirements could not be resolved; the lines above say why.") from err
        head = "# Written by `python dev.py lock`; exact versions and hashes of the developer's environment.\n"
        target.write_text(f"{head}# Made for {digest(files)}\n{fresh.read_text('utf-8')}", "utf-8", newline="\n")


def requirements(comfyui_path: Path) -> list[Path]:
    """The files that say what an environment must hold, beside torch.txt."""
    return [comfyui_path / "requirements.txt", *WANTED]


def digest(files: list[Path]) -> str:
    """One number for what all `files` ask for, whatever their line ends and comments."""
    lines = [line.partition("#")[0].strip() for file in files for line in file.read_text("utf-8").splitlines()]
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()


def made_for(lock: Path) -> str:
    """The digest of the requirements that a lock was made for, empty where it does not say."""
    found = re.search(r"^# Made for (\w+)$", lock.read_text("utf-8"), re.MULTILINE) if lock.exists() else None
    return found[1] if found else ""


# What it is made with


def find_uv() -> str | None:
    """uv, which installs in a minute what takes pip five; None where it cannot be had."""
    if shutil.which("uv"):
        return shutil.which("uv")
    tools = comfyui.cache_folder() / "uv"
    program = tools / "bin" / ("uv.exe" if os.name == "nt" else "uv")
    if not program.exists():
        tools.mkdir(parents=True, exist_ok=True)
        pinned = re.search(r"^uv==.*?(?<!\\)\n", LOCK.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        (tools / "uv.txt").write_text(pinned[0] if pinned else "uv\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "--upgrade", "-r"]
        if subprocess.run([*command, str(tools / "uv.txt")], stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
            return None
    return str(program) if program.exists() else None


def other_pythons() -> dict[str, str]:
    """{'3.10': program, …}: the supported Pythons of this machine but the one that runs now, in PATH or pyenv's folder."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found: dict[str, str] = {}
    for version in ("3.10", "3.11", "3.12", "3.13"):
        if version != f"{sys.version_info.major}.{sys.version_info.minor}":
            programs = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
            program = next((str(one) for one in programs if one and is_python(str(one), version)), None)
            found |= {version: program} if program else {}
    return found


def is_python(program: str, version: str) -> bool:
    """Whether a program starts and is that Python: pyenv's shims may stand for one that is switched off."""
    command = [program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode == 0 and done.stdout.strip() == version


def require_space(folder: Path) -> None:
    """Raises Problem where the disk is too full for an environment."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < GB:
        raise Problem(
            f"Not enough disk space: the environment needs about {GB} GB, {free:.1f} GB are free in {folder}. "
            "Free some space, or set XDG_CACHE_HOME to a folder on another disk."
        )


def borrowed_packages(comfyui_path: Path) -> list[str]:
    """Where the packages of the Python in use are, when it already serves a ComfyUI of the user's own."""
    serves = all(map(importlib.util.find_spec, ("torch", "aiohttp", "safetensors")))
    return site.getsitepackages() if serves and comfyui_path != comfyui.cached() else []


def install(command: list[str]) -> None:
    """Runs an installer; what it prints goes to stderr. Raises CalledProcessError where it fails."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
