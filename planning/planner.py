"""Plans a job: finds the variant's files or their sizes, asks the calibration and the environment, and lets the solver choose."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .. import environment
from ..catalog.catalog import catalogue
from ..catalog.names import STEP_DISTILL, automatic, wished
from ..machine.card import Card
from . import selector
from .calibration import Calibration
from .estimate import Parts
from .model_sizes import kind_of, model_of
from .plan import Job, Plan
from .solve import Host, Rules, solve

Find = Callable[[str], Path | None]
USUAL_RAM = 32 << 30  # assumed for `auto` where the computer is not known
MISSING_FLAGS = ("--medvram", "--normalvram", "--cpu-text-encoder", "--cpu-text-enc")


def plan_job(
    job: Job,
    card: Card,
    find: Find = lambda file: None,
    calibration: Calibration | None = None,
    host: Host = Host(),  # noqa: B008 - frozen
) -> Plan:
    """The plan for a job; `auto` as the job's variant takes the one that is done first.

    `find` gives the path of a catalogue file id, or of a user's own file name, None where it is not here.
    Raises ValueError for a job that cannot be, an unknown variant, or a damaged file.
    """
    check(job)
    card, rules = reserved(card), forced()
    if job.variant == "auto" and wished() != "auto":
        job = replace(job, variant=automatic())
    if job.variant == "auto":
        return least_time(job, card, find, calibration, host, rules)
    return planned(job, card, find, calibration, host, rules)


def planned(
    job: Job, card: Card, find: Find, calibration: Calibration | None, host: Host, rules: Rules, explain: bool = True
) -> Plan:
    """The plan of the job's own variant."""
    model = model_of(job.variant, files(job.variant, find))
    corrections = calibration.corrections(model.architecture, card) if calibration else {}
    host = replace(host, download=download(job, find))
    plan = solve(job, card, model, parts_of(job.variant), corrections, host, rules, explain)
    lines = [*plan.advice, *(f"ComfyUI has no flag {flag}: take it out." for flag in MISSING_FLAGS if flag in flags())]
    return replace(plan, advice=tuple(lines))


def least_time(job: Job, card: Card, find: Find, calibration: Calibration | None, host: Host, rules: Rules) -> Plan:
    """The plan of the best variant of SteadyDancer, by the selector's order, that is hardly slower than the fastest.

    One that is here may be a little slower still: it saves a download of 10 GB and more.
    """
    order = selector.order("steadydancer", card.sm)
    known = selector.formats("steadydancer")
    usual = replace(host, ram=host.ram or USUAL_RAM)
    jobs = [replace(job, variant=known[format].id) for format in order]
    plans = [planned(variant, card, find, calibration, usual, rules, explain=False) for variant in jobs]
    fitting = [plan for plan in plans if plan.fits] or plans[-1:]
    fastest = min(plan.seconds for plan in fitting)
    here = [plan for plan in fitting if not plan.disk and plan.seconds <= 1.15 * fastest]
    chosen = next(plan for plan in (*here, *fitting) if plan in here or plan.seconds <= 1.05 * fastest)
    return planned(chosen.job, card, find, calibration, host, rules)


def check(job: Job) -> None:
    if job.width % 16 or job.height % 16 or min(job.width, job.height) < 16:
        raise ValueError(f"{job.width}×{job.height} cannot be made: both must be multiples of 16.")
    if job.frames < 1 or job.frames % 4 != 1:
        raise ValueError(f"{job.frames} frames cannot be made: take one more than a multiple of 4, such as 81.")


def files(variant: str, find: Find) -> list[Path]:
    """The variant's files if all of them are here; of two experts, which take turns, the first."""
    known = catalogue().variants.get(variant)
    if known is None:
        path = find(variant)
        if path is None:
            raise ValueError(f"There is no variant and no file '{variant}'. `cli.py list` shows what there is.")
        return [path]
    paths = [find(file) for file in known.diffusion]
    if not all(paths) or any(path.suffix not in (".safetensors", ".gguf") for path in paths):
        return []
    return paths[:1] if known.experts == 2 else paths


def parts_of(variant: str) -> Parts:
    book = catalogue()
    entry = book.variants.get(variant) or book.variants["steadydancer/fp8"]
    size = lambda ids: sum(book.files[id].size for id in ids)  # noqa: E731
    return Parts(size(entry.text_encoder), size(entry.clip_vision), size(entry.vae))


def download(job: Job, find: Find) -> int:
    """Bytes of the variant's files that are not here yet."""
    book = catalogue()
    entry = book.variants.get(job.variant)
    return sum(book.files[file].size for file in entry.files if not find(file)) if entry else 0


def flags() -> list[str]:
    """The flags of the ComfyUI that this runs in, else those that COMFYUI_ARGS will give to it."""
    return sys.argv[1:] if "comfy.cli_args" in sys.modules else environment.text("COMFYUI_ARGS").split()


def forced() -> Rules:
    """What the server's flags or GPU_MEMORY_MODE say about the blocks."""
    for flag in ("--novram", "--gpu-only", "--highvram"):
        if flag in flags():
            everything = flag != "--novram"
            return Rules("all" if everything else "none", everything, f"Start ComfyUI without {flag}")
    if selector.mode() == "sequential_cpu_offload":
        return Rules("none")
    if selector.mode() in ("full", "model_cpu_offload"):
        return Rules("all", undo="Set GPU_MEMORY_MODE to auto")
    return Rules()


def reserved(card: Card) -> Card:
    """The card without what the server's flags reserve."""
    found = re.search(r"--reserve-vram[ =]([\d.]+)", " ".join(flags()))
    return replace(card, free=max(0, card.free - round(float(found[1]) * (1 << 30)))) if found else card


def job_for(variant: str, width: int, height: int, frames: int, turbo: bool = False, **given: int | bool | None) -> Job:
    """A job with what the model's kind usually takes where `given` does not say; `turbo` is the 4-step LoRA."""
    kind = kind_of("steadydancer/fp8" if variant == "auto" else variant)
    usual = {"branches": kind["branches"], "steps": kind["steps"], "pose": kind["pose"]}
    if turbo:
        usual |= {"branches": 1, "steps": 4, "lora_bytes": catalogue().files[STEP_DISTILL].size}
    return Job(variant, width, height, frames, **{**usual, **{k: v for k, v in given.items() if v is not None}})
