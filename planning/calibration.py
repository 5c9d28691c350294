"""What runs have measured, kept in a file, and the corrections that follow from it: bounded, and deaf to a single bad run."""

import json
import math
import os
import statistics
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..base.regular import regular
from ..machine import gpus
from ..machine.card import Card
from .plan import Plan

FILE = "vram_calibration.json"
LATEST = 9  # runs of a kind that count
FEW = 3  # fewer runs than this move a correction by a quarter at most, and never down
BOUNDS, FEW_BOUNDS = (0.5, 2.0), (1.0, 1.25)
writing = threading.Lock()


@dataclass(frozen=True)
class Measurement:
    """One phase of one run: bytes of activations predicted without corrections, and measured.

    `kind` is what the correction holds for: architecture, dtype, ComfyUI's version and attention; `volume` is pixels times
    frames. Where the phase `ran_out` of memory, `measured` is what the next plan should allow it.
    """

    phase: str
    kind: str
    gpu: str
    volume: int
    predicted: int
    measured: int
    ran_out: bool = False

    @property
    def ratio(self) -> float:
        """How much more (above 1) or less the run took than was predicted."""
        return self.measured / max(1, self.predicted)


TYPES = {"phase": str, "kind": str, "gpu": str, "volume": int, "predicted": int, "measured": int, "ran_out": bool}


def sound(entry: object) -> bool:
    """Whether an entry of the file is a measurement as we write it: the file may be damaged, edited or somebody else's."""
    if not isinstance(entry, dict):
        return False
    typed = {name: type(value) for name, value in entry.items()}
    whole = {"ran_out": bool} | typed == TYPES
    return whole and all(0 <= entry[name] < 1 << 63 for name in ("volume", "predicted", "measured"))


class Calibration:
    """The measurements in a file. Without a `setting`, ComfyUI's version and attention, those of all count."""

    def __init__(self, path: Path, setting: str = "") -> None:
        self.path, self.setting = path, setting

    def kind(self, architecture: str, card: Card) -> str:
        """What measurements count for a model on a card; without a GPU ComfyUI computes in float32."""
        return f"{architecture}/{'fp32' if card.sm == 0 else 'bf16'}/{self.setting}"

    def corrections(self, architecture: str, card: Card) -> dict[str, float]:
        """Phase → factor for its activations."""
        found: dict[str, list[Measurement]] = {}
        for run in self.read():
            if run.kind.startswith(self.kind(architecture, card)) and same_card(run.gpu, card.name):
                found.setdefault(run.phase, []).append(run)
        return {phase: correction(runs[-LATEST:]) for phase, runs in found.items()}

    def read(self) -> list[Measurement]:
        """All measurements, the oldest first, without entries that are not as we write them."""
        with suppress(OSError, ValueError, RecursionError):
            with open(self.path, encoding="utf-8", opener=regular) as file:
                found = json.load(file)
            return [Measurement(**entry) for entry in found if sound(entry)] if isinstance(found, list) else []
        return []

    def add(self, runs: list[Measurement]) -> None:
        """Writes measurements to the file, whole or not at all; the oldest of a kind are forgotten."""
        with writing:
            kept: dict[tuple, list[Measurement]] = {}
            for run in [*self.read(), *runs]:
                kept.setdefault((run.phase, run.kind, run.gpu), []).append(run)
            entries = [asdict(run) for group in kept.values() for run in group[-LATEST:]]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=FILE)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1)
            os.replace(name, self.path)

    def reset(self) -> int:
        """Forgets everything; returns how many measurements there were."""
        count = len(self.read())
        self.path.unlink(missing_ok=True)
        return count


def same_card(one: str, other: str) -> bool:
    """Whether two names, a driver's or the table's, mean the same GPU."""
    known = gpus.known_as(one)
    return one == other or (known is not None and known == gpus.known_as(other))


def correction(runs: list[Measurement]) -> float:
    """The factor for a phase's activations, in steps of a twentieth, so that equal runs keep the same plan.

    The median of the runs, which one wild run cannot move far, within bounds that are narrow while there are few. A run
    that went out of memory is not outvoted: until nine newer runs have pushed it out, there is at least its room.
    """
    finished = [run.ratio for run in runs if not run.ran_out]
    low, high = FEW_BOUNDS if len(finished) < FEW else BOUNDS
    factor = min(high, max(low, statistics.median(finished))) if finished else 1.0
    factor = max([factor, *(run.ratio for run in runs if run.ran_out)])
    return math.ceil(min(BOUNDS[1], factor) * 20 - 1e-6) / 20


def measurement(plan: Plan, kind: str, phase: str, activations: int, ran_out: bool = False) -> Measurement | None:
    """A phase that needed so many bytes of activations beside its weights; None where the plan does not have the phase."""
    planned = plan.phase(phase)
    if planned is None or planned.where == "cpu" or planned.activations == 0:
        return None
    predicted = round(planned.activations / planned.correction)
    volume = plan.job.width * plan.job.height * plan.job.frames
    # A LoRA or buffers that were on the card before the phase computed are not in `activations`: they lower nothing.
    measured = max(activations - planned.transient, min(activations, planned.activations))
    return Measurement(phase, kind, plan.card.name, volume, predicted, measured, ran_out)
