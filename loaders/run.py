"""A run as planned: the plan's orders for the loaders, what was measured against it, and a helpful error when memory runs out."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ..planning.calibration import Calibration, Measurement, measurement
from ..planning.estimate import vae_bytes
from ..planning.model_sizes import architecture_of
from ..planning.plan import Plan
from ..planning.solve import NAMES
from .meter import Meter

RAN_OUT = 1.25  # a phase that ran out of memory is planned with this much more the next time
KEPT = 8
runs: "OrderedDict[Plan, PlannedRun]" = OrderedDict()


class OutOfMemory(torch.OutOfMemoryError):
    """Still what ComfyUI takes for running out of memory, but says in which phase, with which numbers, and what to do."""


class PlannedRun:
    """One plan while its prompts run: all that its loader returns and the report share it."""

    def __init__(self, plan: Plan, calibration: Calibration | None = None) -> None:
        self.plan, self.calibration = plan, calibration
        self.meter = Meter()

    @contextmanager
    def measured(self, phase: str, patcher: ModelPatcher | None = None) -> Iterator[None]:
        """Measures what happens inside as `phase`. Where memory runs out, that is noted and said in words."""
        inside = self.meter.running
        try:
            with self.meter.measured(phase, patcher):
                yield
        except Exception as err:
            if inside or not comfy.model_management.is_oom(err):
                raise
            self.ran_out(phase)
            raise OutOfMemory(self.sentence(phase)) from err

    def rescued(self, phase: str) -> None:
        """Whole frames did not fit, and ComfyUI takes tiles by itself: it ran out of memory, if the plan is for whole ones."""
        job, card, planned = self.plan.job, self.plan.card, self.plan.phase(phase)
        assert planned, "a phase that is measured is in the plan"
        whole = vae_bytes(job, card, phase.removeprefix("vae_"), 0) * planned.correction
        if phase not in self.meter.tiled and planned.activations >= round(whole):
            self.ran_out(phase)
        self.meter.tiled.add(phase)

    def ran_out(self, phase: str) -> None:
        """Notes for the next plan that the phase needs more than this one gave it."""
        planned = self.plan.phase(phase)
        if planned is not None and self.calibration is not None:
            taken = planned.transient + round(RAN_OUT * planned.activations)
            found = measurement(self.plan, self.kind, phase, taken, ran_out=True)
            self.calibration.add([found] if found else [])

    @property
    def kind(self) -> str:
        """What the measurements of this run count for, see Calibration.kind."""
        architecture = architecture_of(self.plan.variant)
        return self.calibration.kind(architecture, self.plan.card) if self.calibration else architecture

    def take(self) -> list[Measurement]:
        """The measurements since the last time, for the calibration."""
        phases = self.meter.take()
        if not self.plan.card.sm:  # what a process grew by says little: its heap keeps what earlier runs freed
            return []
        found = [
            measurement(self.plan, self.kind, phase, self.meter.peaks[phase].activations) for phase in sorted(phases)
        ]
        return [run for run in found if run]

    def lines(self) -> list[str]:
        """Predicted and measured GB a phase, in words: a node's text has no columns. Empty where nothing was measured."""
        lines = []
        for phase in self.plan.phases:
            if phase.name in self.meter.peaks and (phase.where == "gpu" or not self.plan.card.sm):
                peak = self.meter.peaks[phase.name].total
                note = "; in tiles, because whole frames did not fit" if phase.name in self.meter.tiled else ""
                lines.append(
                    f"{NAMES[phase.name]}: {phase.peak / 1e9:.2f} GB planned, {peak / 1e9:.2f} GB measured "
                    f"({peak / max(1, phase.peak):.0%}){note}"
                )
        return lines

    def sentence(self, phase: str) -> str:
        """What to tell the user when memory ran out in a phase."""
        plan, planned = self.plan, self.plan.phase(phase)
        numbers = (
            f"the plan gave it {planned.peak / 1e9:.1f} of {plan.card.free / 1e9:.1f} GB" if planned else "unplanned"
        )
        change = {
            "text_encode": "the text encoder then runs on the CPU if it must",
            "image_encode": "or close other programs that use the GPU",
            "vae_encode": "it then encodes in tiles; or choose a smaller size",
            "sample": "more of the model then waits in RAM; or choose fewer frames, a smaller size or a smaller variant",
            "vae_decode": "connect vae_tile to VAE Decode (Tiled), so that it decodes in tiles",
        }[phase]
        return (
            f"Out of memory while {NAMES[phase]}: {numbers}. Run it again: the planner has noted it and leaves more room; "
            f"{change}."
        )


def run_of(plan: Plan, calibration: Calibration | None = None) -> PlannedRun:
    """The run of a plan, the same for its loader and its report."""
    run = runs.setdefault(plan, PlannedRun(plan))
    run.calibration = calibration or run.calibration
    runs.move_to_end(plan)
    while len(runs) > KEPT:
        runs.popitem(last=False)
    return run
