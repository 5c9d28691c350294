"""From a job and a card to the plan that takes least time: what stays on the card, what waits, and what to change."""

from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..machine import gpus
from ..machine.card import Card
from .estimate import HOST_BASE, TILES, Parts, Settings, phases, sample_phase, sample_seconds
from .model_sizes import Model
from .plan import DOES_NOT_FIT, FITS, FITS_WITH_CHANGES, Job, Phase, Plan

COMFYUI_SPARE = 1.5
NAMES = {
    "text_encode": "encoding the text",
    "image_encode": "encoding the picture",
    "pose": "finding the poses",
    "vae_encode": "encoding the video",
    "sample": "sampling",
    "vae_decode": "decoding the video",
    "frames": "holding the frames",
}


@dataclass(frozen=True)
class Host:
    """The computer around the card: bytes of RAM and of disk that are free, 0 where it is not known; `download` bytes."""

    ram: int = 0
    disk: int = 0
    download: int = 0


@dataclass(frozen=True)
class Rules:
    """What the user or the pod decides beforehand: `kept` is None, "all" or "none" of the blocks, `together` that no model
    leaves the card for another, `undo` how to let the planner decide."""

    kept: str | None = None
    together: bool = False
    undo: str = ""


@dataclass(frozen=True)
class Case:
    """What a plan follows from: `corrections` are the factors for the activations of phases, from calibration."""

    job: Job
    card: Card
    model: Model
    parts: Parts
    corrections: dict[str, float]

    def phases(self, settings: Settings) -> tuple[Phase, ...]:
        """All phases of the job with these settings."""
        return phases(self.job, self.card, self.model, self.parts, settings, self.corrections)

    def sample(self, settings: Settings) -> Phase:
        """The sampling phase alone, which most settings are about."""
        return sample_phase(self.job, self.card, self.model, settings, self.corrections)

    def sample_seconds(self, settings: Settings) -> float:
        """Seconds of sampling with these settings."""
        return sample_seconds(self.job, self.card, self.model, settings)

    def one_branch(self, settings: Settings) -> int:
        """Bytes that an evaluation of a single branch needs beside the weights."""
        sample = self.sample(replace(settings, batched=False))
        return sample.activations + sample.transient + sample.slack

    def batches(self, settings: Settings) -> bool:
        """Whether it can be as `settings.batched` says: ComfyUI batches only with half as much again to spare."""
        if not settings.batched or self.job.branches == 1:
            return True
        batch = COMFYUI_SPARE * self.job.branches * self.one_branch(settings)
        return self.sample(settings).weights + batch <= self.card.free


def solve(
    job: Job,
    card: Card,
    model: Model,
    parts: Parts,
    corrections: dict[str, float] | None = None,
    host: Host = Host(),  # noqa: B008 - frozen
    rules: Rules = Rules(),  # noqa: B008
    explain: bool = True,
) -> Plan:
    """The plan for `job` on `card`. `corrections` scale the activations of phases, from calibration.

    What would fit instead of what does not takes time to find: `explain` says whether it is wanted.
    """
    case = Case(job, card, model, parts, corrections or {})
    best = best_settings(case, rules)
    settings = best or smallest(model, rules)
    found = case.phases(settings)
    frames = next(phase for phase in found if phase.name == "frames")
    offloaded = (model.blocks - settings.kept) * model.block_bytes
    ram = round(HOST_BASE) + offloaded + (model.experts - 1) * model.bytes + parts.text_encoder + frames.activations
    lacking = [name for name, need, there in needs(ram, host) if there and need > there]
    changed = changes(case, settings) if best else []
    verdict = DOES_NOT_FIT if best is None or lacking else FITS_WITH_CHANGES if changed else FITS
    seconds = sum(phase.seconds for phase in found)
    plan = Plan(
        job=job,
        card=card,
        phases=found,
        verdict=verdict,
        mode=mode(case, settings),
        blocks=model.blocks,
        kept=settings.kept,
        resident=model.other_bytes + settings.kept * model.block_bytes,
        activations=case.one_branch(settings),
        batched=settings.batched,
        vae_tile=settings.vae_tile,
        text_encoder=settings.text_encoder,
        ram=ram,
        disk=host.download,
        seconds=seconds,
        money=None if card.price is None else card.price * seconds / 3600,
        calibrated=bool(corrections),
    )
    if best is None and explain:
        changed = too_large(case, rules, found)
    return replace(plan, advice=(*changed, *(host_advice(name, ram, host) for name in lacking)))


def options(job: Job, model: Model, rules: Rules) -> Iterable[Settings]:
    """Everything that may be chosen."""
    kept = {None: range(model.blocks + 1), "all": [model.blocks], "none": [0]}[rules.kept]
    for batched in (True, False) if job.branches > 1 else (True,):
        for tile in TILES:
            for text_encoder in ("gpu", "cpu"):
                for blocks in kept:
                    yield Settings(batched, blocks, tile, text_encoder, rules.together)


def smallest(model: Model, rules: Rules) -> Settings:
    """The settings that take least of the card, as far as the rules allow."""
    return Settings(False, model.blocks if rules.kept == "all" else 0, TILES[-1], "cpu", rules.together)


def best_settings(case: Case, rules: Rules) -> Settings | None:
    """The fastest settings under which every phase fits, None where there are none.

    The phases do not share settings, so each is settled by itself: the text encoder is faster on the card, a larger tile is
    faster than a smaller one, more blocks on the card are never slower; only batching has to be tried. Where all models stay
    together on the card, the phases do share it, and the few settings that are left are all tried.
    """
    card = case.card

    def fits(settings: Settings, *names: str) -> bool:
        return all(p.where == "cpu" or p.peak <= card.free for p in case.phases(settings) if p.name in names)

    def samples(settings: Settings) -> bool:
        return case.sample(settings).peak <= card.free and case.batches(settings)

    if rules.together:
        every = [c for c in options(case.job, case.model, rules) if samples(c) and fits(c, *NAMES)]
        return min(every, key=lambda choice: sum(phase.seconds for phase in case.phases(choice)), default=None)
    settings = smallest(case.model, rules)
    if not fits(settings, "image_encode", "pose", "vae_encode", "vae_decode"):
        return None
    tile = next(tile for tile in TILES if fits(replace(settings, vae_tile=tile), "vae_decode"))
    encoder = "gpu" if fits(replace(settings, text_encoder="gpu"), "text_encode") else "cpu"
    candidates = []
    for batched in (True, False) if case.job.branches > 1 else (True,):
        kept = most_blocks(case.model, rules, lambda n: samples(replace(settings, batched=batched, kept=n)))  # noqa: B023
        if kept is not None:
            candidates.append(Settings(batched, kept, tile, encoder))
    return min(candidates, key=case.sample_seconds, default=None)


def most_blocks(model: Model, rules: Rules, fits: Callable[[int], bool]) -> int | None:
    """The most blocks that fit; None where not even none does. All of them need no buffers to bring others over."""
    if rules.kept != "none" and fits(model.blocks):
        return model.blocks
    if rules.kept == "all" or not fits(0):
        return None
    if rules.kept == "none":
        return 0
    low, high = 0, model.blocks - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def mode(case: Case, settings: Settings) -> str:
    """full: everything stays on the card. model_cpu_offload: the models take turns. sequential: blocks come and go."""
    if settings.kept < case.model.blocks:
        return "sequential_cpu_offload"
    sample = next(phase for phase in case.phases(settings) if phase.name == "sample")
    parts = case.parts
    others = 0 if settings.together else sum((parts.text_encoder, parts.clip_vision, parts.vae))
    return "full" if sample.peak + others <= case.card.free and settings.text_encoder == "gpu" else "model_cpu_offload"


def changes(case: Case, settings: Settings) -> list[str]:
    """What is not as usual, and why, in plain words."""
    model, free = case.model, case.card.free
    usual = case.phases(replace(settings, vae_tile=0, text_encoder="gpu"))
    whole = {phase.name: f"{phase.peak / 1e9:.1f} GB of {free / 1e9:.1f} GB" for phase in usual}
    found = []
    if settings.vae_tile:
        found.append(
            f"Decode in tiles of {settings.vae_tile} pixels: connect vae_tile to VAE Decode (Tiled). "
            f"Whole frames would take {whole['vae_decode']}."
        )
    if settings.text_encoder == "cpu":
        found.append(
            f"The text encoder runs on the CPU, a minute more for a new prompt: it would take {whole['text_encode']}."
        )
    if settings.kept < model.blocks:
        sample = case.sample(settings)
        resident = case.sample_seconds(replace(settings, kept=model.blocks))
        slower = round(100 * (case.sample_seconds(settings) / resident - 1))
        found.append(
            f"{settings.kept} of {model.blocks} blocks stay on the card, {model.block_bytes / 1e9:.2f} GB each beside the "
            f"{(sample.peak - sample.weights) / 1e9:.1f} GB that sampling needs. The others come from RAM in every step: "
            f"{f'about {slower} % slower' if slower else 'hardly slower'}."
        )
    return found


def needs(ram: int, host: Host) -> list[tuple[str, int, int]]:
    """(what, bytes needed, bytes there) of the computer around the card."""
    return [("ram", ram, host.ram), ("disk", host.download, host.disk)]


def host_advice(name: str, ram: int, host: Host) -> str:
    """What to do where RAM or disk (`name`) are short, with both numbers."""
    if name == "disk":
        return (
            f"The download needs {host.download / 1e9:.1f} GB of disk, and {host.disk / 1e9:.1f} GB are free. "
            "Free some space, or choose a smaller variant."
        )
    return (
        f"The computer needs about {ram / 1e9:.0f} GB of RAM, and {host.ram / 1e9:.0f} GB are there. "
        "Choose a smaller variant or fewer frames, or close other programs."
    )


def too_large(case: Case, rules: Rules, found: tuple[Phase, ...]) -> list[str]:
    """Why nothing fits, and what would."""
    job, card = case.job, case.card
    worst = max((phase for phase in found if phase.where == "gpu"), key=lambda phase: phase.peak)
    if rules.kept == "all" and best_settings(case, Rules()):
        return [
            f"The whole model does not fit: {NAMES[worst.name]} would take {worst.peak / 1e9:.1f} GB of "
            f"{card.free / 1e9:.1f} GB. {rules.undo}, and part of it waits in RAM."
        ]
    lines = [
        f"It does not fit even with every saving: {NAMES[worst.name]} takes {worst.peak / 1e9:.1f} GB, "
        f"and {card.name} has {card.free / 1e9:.1f} GB for it."
    ]

    def possible(**changed: Any) -> bool:
        return best_settings(replace(case, job=replace(job, **changed)), rules) is not None

    if job.lora_bytes and possible(lora_bytes=0):
        lines.append("Without the LoRA it fits.")
    # More frames never need less, so the first count that is too large can be searched by halves.
    counts = range(5, job.frames, 4)
    fitting = bisect(counts, False, key=lambda frames: not possible(frames=frames))
    if fitting:
        lines.append(f"{counts[fitting - 1]} frames fit at {job.width}×{job.height}.")
    for width, height in ((1024, 576), (832, 480), (640, 368), (480, 272)):
        size = (width, height) if job.width >= job.height else (height, width)
        if size[0] * size[1] < job.width * job.height and possible(width=size[0], height=size[1]):
            lines.append(f"{size[0]}×{size[1]} fits with {job.frames} frames.")
            break
    larger = [other for other in gpus.cards() if other.free > card.free and other.price is not None]
    for other in sorted(larger, key=lambda other: other.price or 0.0):
        if best_settings(replace(case, card=other), rules):
            lines.append(f"{other.name} can do it, at about ${other.price:.2f} an hour.")
            break
    return lines
