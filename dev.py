#!/usr/bin/env python3
"""The developer's door. Needs Python 3.10 or newer, pip and the package registry, and makes everything else itself.

    python dev.py test [unit exhaustive parts contract e2e browser] [-- pytest arguments]
    python dev.py test --every-python      unit and contract under each other Python from 3.10 to 3.13 found here
    python dev.py test --newest            the same layers with the newest releases and ComfyUI: what would break
    python dev.py test --comfyui PATH      contract and the model tests, or the layers named, with another ComfyUI
    python dev.py demo                     a tiny run of the main job: a video and a contact sheet
    python dev.py serve [ComfyUI flags]    ComfyUI with this package in it
    python dev.py run -- COMMAND …         any command in the environment, with COMFYUI_PATH set
    python dev.py types                    mypy over all that is ours, ComfyUI's own code in sight
    python dev.py lock                     newer releases for all of them: rewrites tests/requirements.lock

ComfyUI is $COMFYUI_PATH, else the one that this folder is installed in, else a copy kept in the cache folder. The
environment is made once from the lock, in the same cache folder; where you start dev.py with a Python that already runs
your ComfyUI, its torch is used instead of a second one.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parent  # not resolved: a link inside custom_nodes is an installation too
sys.path.insert(0, str(ROOT))

from tools import chromium, comfyui, environment, typecheck  # noqa: E402
from tools.problem import Problem  # noqa: E402

LAYERS = ("unit", "exhaustive", "parts", "contract", "e2e", "browser")
LANES = (("unit", "exhaustive", "parts", "browser"), ("contract", "e2e"))  # equally long; each wants one core mostly
QUICK_LAYERS = ("unit", "contract")
MODEL_TESTS = (
    "quantised converted placement dynamic_memory run_memory compute_dtype sampling core_accelerators activations "
    "turbo_loader turbo_sampling kernel_trials prompt_cancel pose_placement"
).split()


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code: 1 with a sentence on stderr where it cannot, 2 for wrong usage."""
    commands = {"test": test, "demo": demo, "serve": serve, "run": run, "types": types, "lock": lock}
    if argv[:1] in ([], ["-h"], ["--help"]) or argv[0] not in commands:
        print(__doc__)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    try:
        if sys.version_info < (3, 10):  # noqa: UP036 (this is who tells the owner of an older one)
            raise Problem(
                f"This Python is {sys.version.split()[0]}, ComfyUI needs 3.10 or newer. "
                "Install a newer one and start dev.py with it."
            )
        return commands[argv[0]](argv[1:])
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1


def test(arguments: list[str]) -> int:
    """Runs the layers asked for, else all, quick ones first."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    layers, options = arguments[:split], arguments[split + 1 :]
    for lane in (every_python, newest):
        if layers[:1] == [f"--{lane.__name__.replace('_', '-')}"]:
            return lane([checked(layer) for layer in layers[1:]] or list(QUICK_LAYERS), options)
    if layers[:1] == ["--comfyui"]:
        return another_comfyui(layers[1:2], [checked(layer) for layer in layers[2:]], options)
    asked = [checked(layer) for layer in layers]
    names_a_file = any((ROOT / option.split("::")[0]).exists() for option in options)
    layers = asked or ([] if names_a_file else list(LAYERS))
    python, variables = ready(comfyui.find())
    missing = ""
    if "browser" in layers and not chromium.find_or_install(python):
        missing = without_chromium(python, variables)
        if "browser" in asked:
            raise Problem(missing)
        layers.remove("browser")
    first, second = ([layer for layer in layers if layer in lane] for lane in LANES)
    if first and second:
        code = side_by_side(python, variables, first, second, options)
    else:
        code = pytest(python, variables, layers, options)
    if missing:
        print(f"\n{missing}", file=sys.stderr)
    return code


def checked(layer: str) -> str:
    """The layer itself. Raises Problem where there is none of that name."""
    if layer not in LAYERS:
        raise Problem(f"There is no test layer '{layer}'. Choose from {', '.join(LAYERS)}; pytest's own go after --.")
    return layer


def side_by_side(
    python: str, variables: dict[str, str], first: list[str], second: list[str], options: list[str]
) -> int:
    """Runs two sets of layers at once; what the first one says is shown when both have ended."""
    print(f"Running {', '.join(first)} beside {', '.join(second)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        running = subprocess.Popen(
            pytest_command(python, first, options), env=variables, cwd=ROOT, stdout=said, stderr=said
        )
        try:
            code = pytest(python, variables, second, options)
        finally:
            code_of_first = running.wait()
        said.seek(0)
        sys.stdout.writelines(said)
    return max(code, code_of_first, key=abs)


def pytest(python: str, variables: dict[str, str], layers: list[str], options: list[str]) -> int:
    """Runs the layers and returns pytest's exit code."""
    return call(pytest_command(python, layers, options), variables)


def pytest_command(python: str, layers: list[str], options: list[str]) -> list[str]:
    """What runs the layers in an environment; `options` go to pytest as they are."""
    # Without this folder, whose nodes/ hides ComfyUI's, on sys.path. There may be no script: a borrowed pytest has none here.
    start = "import sys; sys.path.pop(0); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    return [python, "-c", start, *(f"tests/{layer}" for layer in layers), *options]


def without_chromium(python: str, variables: dict[str, str]) -> str:
    """What was not run on a machine where Chromium cannot be had, and what brings it."""
    command = pytest_command(python, ["browser"], ["--collect-only", "--quiet"])
    collected = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, errors="replace")
    count = re.search(r"(\d+) tests? collected", collected.stdout)
    return (
        f"Not run: the {count[1] if count else ''} tests of the layer 'browser', for want of Chromium. "
        f"To run them: {chromium.advice(python)} && python dev.py test browser"
    )


def every_python(layers: list[str], options: list[str]) -> int:
    """Runs the layers under each other Python of this machine, each with an environment of its own."""
    found, codes = environment.other_pythons(), []
    for version, program in found.items():
        print(f"\nPython {version} ({program})", file=sys.stderr)
        codes.append(pytest(*ready(comfyui.find(), interpreter=program), layers, options))
    ended = ", ".join(f"{version} {'failed' if code else 'passed'}" for version, code in zip(found, codes))
    print(f"\nOther Pythons: {ended or 'none from 3.10 to 3.13 was found here'}", file=sys.stderr)
    return max(codes, default=0)


def newest(layers: list[str], options: list[str]) -> int:
    """Runs the layers with the newest releases that the requirements allow. What fails there is told, and is no failure."""
    found = comfyui.newest()
    print(f"\nThe newest releases, with ComfyUI {comfyui.version(found)}", file=sys.stderr)
    try:
        code: int | str = pytest(*ready(found, newest=True), layers, ["-rf", *options])
    except Problem as problem:
        code = str(problem)
    print(f"\nTomorrow: {'nothing would break' if code == 0 else f'this would break ({code})'}", file=sys.stderr)
    return 0


def another_comfyui(path: list[str], layers: list[str], options: list[str]) -> int:
    """Runs what depends on ComfyUI's version, or the layers, with the ComfyUI in `path`, and says which version it was."""
    if not path:
        raise Problem("Say where the other ComfyUI is: python dev.py test --comfyui PATH")
    os.environ["COMFYUI_PATH"] = path[0]
    home = comfyui.find()
    python, variables = ready(home)
    models = [] if layers else [f"tests/e2e/test_{name}.py" for name in MODEL_TESTS]
    code = pytest(python, variables, layers or ["contract"], [*models, *options])
    print(f"\nComfyUI {comfyui.version(home)}: {'failed' if code else 'passed'}", file=sys.stderr)
    return code


def demo(arguments: list[str]) -> int:
    """Runs the main job with tiny weights and prints where the video is."""
    python, variables = ready(comfyui.find())
    return call([python, "tests/demo.py", *arguments], variables)


def serve(arguments: list[str]) -> int:
    """Starts ComfyUI with this package in it; more ComfyUI flags may follow."""
    home = comfyui.find()
    python, variables = ready(home)
    command = [python, str(home / "main.py")]
    if comfyui.installed_in() != home:
        base = comfyui.cache_folder() / "serve"
        comfyui.link_package(base / "custom_nodes")
        command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        if os.environ.get("COMFYUI_PATH"):
            command += ["--models-directory", str(home / "models")]
    if not has_gpu(python):
        command.append("--cpu")
    return call([*command, *without_dashes(arguments)], variables)


def run(arguments: list[str]) -> int:
    """Runs any command inside the environment."""
    command = without_dashes(arguments)
    if not command:
        raise Problem("There is nothing to run. Say what: python dev.py run -- COMMAND …")
    _, variables = ready(comfyui.find())
    return call([shutil.which(command[0], path=variables["PATH"]) or command[0], *command[1:]], variables, cwd=None)


def types(arguments: list[str]) -> int:
    """Checks types and prints what mypy says."""
    home = comfyui.find()
    done = typecheck.check(home, ready(home)[0])
    print(done.stdout + done.stderr, end="")
    return done.returncode


def lock(arguments: list[str]) -> int:
    """Renews the lock, for the cached ComfyUI."""
    environment.write_lock(comfyui.find_cached())
    print(f"Wrote {environment.LOCK}")
    return 0


def without_dashes(arguments: list[str]) -> list[str]:
    """The arguments without the -- that keeps what follows from being read as dev.py's own."""
    return arguments[1:] if arguments[:1] == ["--"] else arguments


def ready(home: Path, interpreter: str = sys.executable, newest: bool = False) -> tuple[str, dict[str, str]]:
    """The environment's Python, made if need be, and the variables to run things with."""
    folder = environment.make(home, interpreter, newest)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    variables = {
        **os.environ,
        "COMFYUI_PATH": str(home),
        "VIRTUAL_ENV": str(folder),
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),  # ComfyUI starts in a third of the time with it
        "MALLOC_MMAP_THRESHOLD_": "1048576",  # glibc gives a freed model back to the system, and does not keep it
    }
    for name in ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE"):
        variables.pop(name, None)
    return environment.python_of(folder), variables


def has_gpu(python: str) -> bool:
    """Whether that Python's torch can compute on CUDA, ROCm or Apple's MPS."""
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
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))
