"""What runs have measured, kept in a file, and the corrections that follow from it: bounded, and deaf to a single bad run."""

import json
import os
import statistics
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .plan import Card, Plan

FILE = "vram_calibration.json"
LATEST = 9  # runs of a kind that count
FEW = 3  # fewer runs than this move a correction by a quarter at most, and never down
BOUNDS, FEW_BOUNDS = (0.5, 2.0), (1.0, 1.25)
writing = threading.Lock()


@dataclass(frozen=True)
class Measurement:
    """One phase of one run: bytes of activations predicted without corrections, and measured.

    `kind` is what the correction holds for: architecture, dtype, attention and ComfyUI version.
    """

    phase: str
    kind: str
    gpu: str
    tokens: int
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.measured / max(1, self.predicted)


class Calibration:
    """The measurements of a user folder. `kind` selects those of one architecture, dtype, attention and ComfyUI."""

    def __init__(self, folder: Path, comfyui: str = ""):
        self.path = Path(folder) / FILE
        self.comfyui = comfyui

    def kind(self, architecture: str, card: Card) -> str:
        return "/".join((architecture, "fp32" if card.sm == 0 else "bf16", self.comfyui))

    def corrections(self, architecture: str, card: Card) -> dict[str, float]:
        """Phase → factor for its activations."""
        found: dict[str, list[float]] = {}
        for run in self.read():
            if (run.kind, run.gpu) == (self.kind(architecture, card), card.name):
                found.setdefault(run.phase, []).append(run.ratio)
        return {phase: correction(ratios[-LATEST:]) for phase, ratios in found.items()}

    def read(self) -> list[Measurement]:
        """All measurements, the oldest first; none where the file is missing or is not ours."""
        with suppress(OSError, ValueError, TypeError):
            return [Measurement(**entry) for entry in json.loads(self.path.read_text(encoding="utf-8"))]
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


def correction(ratios: list[float]) -> float:
    """The median, which one wild run cannot move far, within bounds that are narrow while there are few runs."""
    low, high = FEW_BOUNDS if len(ratios) < FEW else BOUNDS
    return min(high, max(low, statistics.median(ratios)))


def measurement(plan: Plan, kind: str, phase: str, tokens: int, measured_peak: int) -> Measurement | None:
    """A phase's measured peak on the card, weights included, as activations; None where the plan does not have the phase."""
    planned = plan.phase(phase)
    if planned is None or planned.where == "cpu" or planned.activations == 0:
        return None
    measured = max(0, measured_peak - planned.weights - planned.transient)
    return Measurement(phase, kind, plan.card.name, tokens, planned.activations, measured)
