"""What `doctor` looks at, one function a part. A check says what is wrong; only a fault of its own would raise."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import environment
from ..base.reason import reason
from ..base.retry import RetryPolicy
from ..catalog.catalog import ModelFile
from ..catalog.names import files_of
from ..loaders.download import hub, room
from ..loaders.download.errors import DownloadError, NoRoom
from ..loaders.download.fetch import published_file
from ..loaders.download.places import Places
from ..machine import this_computer
from ..machine.card import Card, computer
from ..planning.choose import choose
from . import ROOT, comfyui, user_folder
from .machine import finder, models_if_known, this_host

PARTS = ("software", "card", "memory", "disk", "network", "bucket", "models")
GOOD, LOOK, BAD = "good", "look", "bad"
OLDEST_COMFYUI = (0, 30, 0)  # pyproject.toml's requires-comfyui
LEAST_RAM = 12e9  # what the planner wants for a card that holds the whole model; with weights in RAM it wants more
LITTLE_RAM = 15e9


@dataclass(frozen=True)
class Finding:
    """One line: `what` was looked at, what was `found`, GOOD, LOOK or BAD, and where it is not good what to do."""

    part: str
    what: str
    found: str
    verdict: str = GOOD
    advice: str = ""


def check(part: str, args: argparse.Namespace) -> Iterator[Finding]:
    """The findings of one of PARTS; where it cannot be looked at, that is one."""
    checks: dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
        "software": software, "card": card, "memory": memory, "disk": disk, "network": network, "bucket": bucket,
        "models": models,
    }  # fmt: skip
    try:
        yield from checks[part](args)
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        ImportError,
    ) as err:  # a variable that says nonsense, mostly
        yield Finding(part, "not looked at", reason(err), BAD)


def software(args: argparse.Namespace) -> Iterator[Finding]:
    """Python, ComfyUI, the packages of requirements.txt, PyTorch, and PyAV with the codecs of an MP4."""
    yield Finding("software", "Python", f"{platform.python_version()}, {sys.executable}")
    yield comfyui_version(args.comfyui or comfyui())
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    missing = [line for line in lines if line and not is_installed(line)]
    advice = "In ComfyUI's Python: pip install -r requirements.txt" if missing else ""
    found = ", ".join(missing) + " missing" if missing else "all of requirements.txt"
    yield Finding("software", "packages", found, BAD if missing else GOOD, advice)
    torch = pytorch()
    if torch is None:
        advice = "Start doctor with the Python that runs ComfyUI: the card, too, can only be looked at from there."
        yield Finding("software", "PyTorch", "not installed for this Python", BAD, advice)
    else:
        yield Finding("software", "PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    yield codecs()
    yield compiler()


def comfyui_version(home: Path | None) -> Finding:
    """Of the ComfyUI in a folder, read and not run."""
    if home is None:
        return Finding("software", "ComfyUI", "not known where it is", LOOK, "Give its folder with --comfyui.")
    try:
        text = (home / "comfyui_version.py").read_text("utf-8")
    except OSError as err:
        return Finding("software", "ComfyUI", f"version not readable: {reason(err)}", LOOK)
    numbers = re.search(r'"(\d+)\.(\d+)\.(\d+)', text)
    version = tuple(map(int, numbers.groups())) if numbers else ()
    found = f"{'.'.join(map(str, version)) or 'of no known version'}, {home}"
    if version < OLDEST_COMFYUI:
        wanted = ".".join(map(str, OLDEST_COMFYUI))
        return Finding("software", "ComfyUI", found, BAD, f"Update it to {wanted} or newer: these nodes need it.")
    return Finding("software", "ComfyUI", found)


def is_installed(line: str) -> bool:
    """Whether a line of requirements.txt is met, by the numbers of its >=."""
    match = re.match(r"([\w-]+)(?:>=([\d.]+))?(?:; python_version < \"([\d.]+)\")?$", line)
    assert match, f"a line of requirements.txt that doctor does not read: {line}"
    name, least, before = match.groups()
    if before and sys.version_info >= numbers_of(before):
        return True
    try:
        return numbers_of(importlib.metadata.version(name)) >= numbers_of(least or "0")
    except importlib.metadata.PackageNotFoundError:
        return False


def numbers_of(version: str) -> tuple[int, ...]:
    """(1, 36) for 1.36 and for 1.36rc2."""
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))


def pytorch() -> Any:
    """The module torch, or None where it is not installed or cannot be loaded."""
    try:
        import torch
    except Exception:  # a broken build fails in ways of its own
        return None
    return torch


def codecs() -> Finding:
    """Whether PyAV writes H.264 and AAC."""
    try:
        import av
    except Exception as err:
        return Finding("software", "PyAV", reason(err), BAD, "In ComfyUI's Python: pip install av")
    missing = []
    for name in ("libx264", "aac"):
        try:
            av.codec.Codec(name, "w")
        except Exception:  # the class of it differs between versions of PyAV
            missing.append(name)
    advice = "Install PyAV's own build: pip install --force-reinstall av" if missing else ""
    found = f"{av.__version__}, {f'without {missing}' if missing else 'H.264 and AAC'}"
    return Finding("software", "PyAV", found, BAD if missing else GOOD, advice)


def compiler() -> Finding:
    """Triton and the C compiler that it calls; without them PyTorch does what our kernels would."""
    if importlib.util.find_spec("triton") is None:
        advice = "GGUF and TurboDiffusion run through PyTorch, slower. On Windows: pip install triton-windows"
        return Finding("software", "Triton", "not installed", LOOK, advice)
    found = environment.text("CC") or next((name for name in ("gcc", "clang", "cc") if shutil.which(name)), "")
    if not found:
        advice = "GGUF and TurboDiffusion run through PyTorch, slower. On Debian and Ubuntu: apt install gcc"
        return Finding("software", "Triton", "no C compiler", LOOK, advice)
    return Finding("software", "Triton", f"{importlib.metadata.version('triton')}, {found}")


def card(args: argparse.Namespace) -> Iterator[Finding]:
    """The card, how much of it is free, how it multiplies, and whether our kernels compute on it what PyTorch does."""
    try:
        gpu = this_computer.present_card()
    except this_computer.NoCard as err:
        advice = "A CPU takes days for a video. `nvidia-smi` shows what the driver sees." if pytorch() else ""
        yield Finding("card", "GPU", str(err), BAD, advice)
        return
    torch = pytorch()
    yield Finding("card", "GPU", f"{gpu.name}, compute capability {gpu.sm / 10}, {gpu.total / 1e9:.1f} GB{driver()}")
    free = torch.cuda.mem_get_info()[0]
    advice = "Other programs hold the rest: `nvidia-smi` names them." if free < 0.85 * gpu.total else ""
    yield Finding("card", "free memory", f"{free / 1e9:.1f} GB", LOOK if advice else GOOD, advice)
    yield Finding("card", "arithmetic", arithmetic(gpu))
    yield from kernels(torch.device("cuda", 0))


def driver() -> str:
    """The version of NVIDIA's driver, where Linux tells it."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return f", driver {found[0]}" if found else ""


def arithmetic(gpu: Card) -> str:
    """Which of the small formats this card multiplies by itself."""
    fp8 = "multiplied" if gpu.fp8 else "unpacked first"
    int8 = "multiplied" if gpu.fused and gpu.sm >= 75 else "slow without a PyTorch for CUDA 13"
    return f"fp8 is {fp8}, int8 {int8}, GGUF unpacked first"


def kernels(device: Any) -> Iterator[Finding]:
    """Each of the kernels for packed and 8-bit weights against PyTorch, on a few numbers. Without Triton there are none."""
    import torch

    if importlib.util.find_spec("triton") is None:
        return
    from ..quant import trials, triton_kernels

    for dtype in (torch.bfloat16, torch.float16):
        if not trials.capable(device, dtype):
            yield Finding("card", "kernels", "not for this card: PyTorch does their work", LOOK)
            return
        wrong = [
            trials.BLOCKS[number].name
            for number in triton_kernels.KERNELS
            if not trials.works(trials.unpacking, device, dtype, number)
        ]
        wrong += [] if trials.works(trials.multiplying, device, dtype) else ["int8"]
        name, advice = str(dtype).removeprefix("torch."), "PyTorch does their work, slower. The lines above say why."
        found = f"{', '.join(wrong)} not usable" if wrong else "as PyTorch computes"
        yield Finding("card", f"kernels {name}", found, LOOK if wrong else GOOD, advice if wrong else "")


def memory(args: argparse.Namespace) -> Iterator[Finding]:
    """RAM of the machine or its container."""
    try:
        from ..machine.memory import free_ram, total_ram
    except ImportError:
        yield Finding("memory", "RAM", "not known: psutil is not installed", LOOK)
        return
    total, free = total_ram(), free_ram()
    found, verdict, advice = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free", GOOD, ""
    if total < LITTLE_RAM:
        verdict = BAD if total < LEAST_RAM else LOOK
        advice = "Weights that do not fit on the card wait in RAM: a machine with 16 GB or more is better."
    yield Finding("memory", "RAM", found, verdict, advice)


def disk(args: argparse.Namespace) -> Iterator[Finding]:
    """Room for what is still to be fetched, and whether models and results outlive the container."""
    where = models_if_known(args)
    if where is None:
        yield Finding("disk", "models folder", "not known", LOOK, "Give --models-dir or --comfyui, or set MODELS_DIR.")
        return
    there = room.nearest(where.models_dir / "any")
    missing = {where.target(file, file.id): file.size for file in missing_files(args, where)}
    free = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free"
    found = f"{free}, {sum(missing.values()) / 1e9:.1f} GB to fetch and to make, {where.models_dir}"
    try:
        room.check(missing, f"{len(missing)} files")
        yield Finding("disk", "models", found)
    except NoRoom as err:
        yield Finding("disk", "models", found, BAD, f"{err} Or put MODELS_DIR on a larger volume.")
    if not os.access(there, os.W_OK):
        yield Finding("disk", "models", "may not be written", BAD, f"Give this user the right to write into {there}.")
    if in_container() and there.stat().st_dev == Path("/").stat().st_dev:
        advice = "Models and results end with it: mount a volume, or save to a bucket."
        yield Finding("disk", "volume", "the container's own disk", LOOK, advice)


def in_container() -> bool:
    """Whether this is one of Docker, Podman or a pod."""
    return any(Path(name).exists() for name in ("/.dockerenv", "/run/.containerenv"))


def network(args: argparse.Namespace) -> Iterator[Finding]:
    """Whether the Hub answers, and takes the token where there is one."""
    if hub.offline():
        yield Finding("network", "Hub", "not asked: HF_HUB_OFFLINE is set", LOOK)
        return
    where = models_if_known(args)
    file = next(file for file in files_of([args.profile], lambda family: variant(family, where)) if file.sources)
    try:
        hub.resolve(file, file.sources[0], RetryPolicy(attempts=1, timeout=10.0), lambda: False)
    except (DownloadError, ImportError) as err:
        yield Finding("network", "Hub", f"{hub.endpoint()}: {reason(err)}", BAD)
        return
    yield Finding("network", "Hub", f"{hub.endpoint()} answers")


def bucket(args: argparse.Namespace) -> Iterator[Finding]:
    """Whether the save profile can write, read, list and delete; nothing where none is set up."""
    from ..base.state import state_file

    try:
        from ..bucket import keys, profiles, service
        from ..bucket.client import Bucket
    except ImportError as err:
        yield Finding("bucket", "profile", reason(err), BAD, "In ComfyUI's Python: pip install -r requirements.txt")
        return
    config = profiles.config_file(state_file(profiles.FILE, args.user_dir or user_folder(args.comfyui or comfyui())))
    try:
        profile = profiles.find("auto", config)
        if profile is None:
            advice = "Results stay on this machine. web/docs/SteadyDancerR2SaveVideo.md says how."
            yield Finding("bucket", "profile", "none is set up", LOOK, advice)
            return
        found = Bucket(profile)
        key = keys.fill("{prefix}/steadydancer-test.json", {"prefix": profile.prefix})
        found.put_small(key, {"test": "doctor"})
        service.try_out(found, key)
    except (OSError, ValueError, RuntimeError) as err:
        yield Finding("bucket", "profile", reason(err), BAD, "`cli.py r2 test` goes through it step by step.")
        return
    yield Finding("bucket", "profile", f"{profile.name}, bucket {found.name}: can be written")


def models(args: argparse.Namespace) -> Iterator[Finding]:
    """Which files of the profile are here and whole, by size and header."""
    where = models_if_known(args)
    if where is None:
        return
    lacking = missing_files(args, where)
    for file in dict.fromkeys([*files_of([args.profile], lambda family: variant(family, where)), *lacking]):
        path, wrong = where.look(file)
        name = f"{file.folder}/{path.name if path else file.name or file.id}"
        if wrong:
            advice = f"Fetch it again: cli.py download {args.profile}"
            yield Finding("models", "damaged", f"{name}: it {wrong}", BAD, advice)
        elif path:
            yield Finding("models", "here", name)
        else:
            advice = f"cli.py download {args.profile}" if file == lacking[0] else ""
            yield Finding("models", "missing", f"{name}, {file.size / 1e9:.1f} GB", LOOK, advice)


def missing_files(args: argparse.Namespace, where: Places) -> list[ModelFile]:
    """The files of the profile that are not here or damaged, and what those that nobody publishes are made of."""
    named = files_of([args.profile], lambda family: variant(family, where))
    files = dict.fromkeys([*named, *(published_file(file, where) for file in named)])
    return [file for file in files if where.look(file)[0] is None or where.look(file)[1]]


def variant(family: str, where: Places | None) -> str:
    """What `auto` is on this machine."""
    try:
        gpu = this_computer.present_card()
    except this_computer.NoCard:
        gpu = computer()
    return choose(family, gpu, finder(where), host=this_host(where)).variant
