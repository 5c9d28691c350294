"""What a run really took: peaks of memory by phase, and a helpful error where a phase ran out of it."""

import contextlib
import os
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import psutil
import torch

from ..planning.calibration import Calibration, Measurement, measurement
from ..planning.estimate import vae_bytes
from ..planning.model_sizes import architecture_of
from ..planning.plan import Plan
from ..planning.solve import NAMES

RAN_OUT = 1.25  # a phase that ran out of memory is planned with this much more the next time
KEPT = 8
meters: "OrderedDict[str, Meter]" = OrderedDict()


class OutOfMemory(torch.OutOfMemoryError):
    """Still what ComfyUI takes for running out of memory, but says in which phase, with which numbers, and what to do."""


@dataclass(frozen=True)
class Peak:
    """Bytes of a phase: its model's weights, and what it needed beside them."""

    weights: int
    beside: int

    @property
    def total(self) -> int:
        return self.weights + self.beside


class Meter:
    """The peaks of one plan's runs, in bytes: of torch's allocator on a GPU, else what the process grew by."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.peaks: dict[str, Peak] = {}
        self.fresh: set[str] = set()  # phases measured since the last report: evaluations of one run are one peak
        self.tiled: set[str] = set()  # those of them that ComfyUI finished in tiles
        self.calibration: Calibration | None = None
        self.running = False

    @contextmanager
    def measured(self, phase: str, patcher=None):
        """Measures what happens inside as `phase`."""
        if self.running:
            yield  # a phase within a phase
            return
        self.running = True
        if phase not in self.fresh:
            self.tiled.discard(phase)
        ledger = Ledger(comfy.model_management.get_torch_device())
        try:
            with ledger.open():
                yield
            self.add(phase, ledger.peak(patcher))
        except Exception as err:
            if not comfy.model_management.is_oom(err):
                raise
            self.ran_out(phase)
            raise OutOfMemory(self.sentence(phase)) from err
        finally:
            self.running = False

    def add(self, phase: str, peak: Peak) -> None:
        before = self.peaks.get(phase) if phase in self.fresh else None
        self.peaks[phase] = peak if before is None else max(peak, before, key=lambda taken: taken.beside)
        self.fresh.add(phase)

    def rescued(self, phase: str) -> None:
        """Whole frames did not fit, and ComfyUI takes tiles by itself: it ran out of memory, if the plan is for whole ones."""
        job, card, planned = self.plan.job, self.plan.card, self.plan.phase(phase)
        whole = vae_bytes(job, card, phase.removeprefix("vae_"), 0) * planned.correction
        if phase not in self.tiled and planned.activations >= round(whole):
            self.ran_out(phase)
        self.tiled.add(phase)

    def ran_out(self, phase: str) -> None:
        planned = self.plan.phase(phase)
        if planned is not None and self.calibration is not None:
            taken = planned.transient + round(RAN_OUT * planned.activations)
            found = measurement(self.plan, self.kind, phase, taken, ran_out=True)
            self.calibration.add([found] if found else [])

    @property
    def kind(self) -> str:
        architecture = architecture_of(self.plan.variant)
        return self.calibration.kind(architecture, self.plan.card) if self.calibration else architecture

    def take(self) -> list[Measurement]:
        """The measurements since the last time, for the calibration."""
        phases, self.fresh = self.fresh - self.tiled, set()
        if not self.plan.card.sm:  # what a process grew by says little: its heap keeps what earlier runs freed
            return []
        found = [measurement(self.plan, self.kind, phase, self.peaks[phase].beside) for phase in sorted(phases)]
        return [run for run in found if run]

    def lines(self) -> list[str]:
        """Predicted and measured GB a phase, in words: a node's text has no columns. Empty where nothing was measured."""
        lines = []
        for phase in self.plan.phases:
            if phase.name in self.peaks and (phase.where == "gpu" or not self.plan.card.sm):
                peak = self.peaks[phase.name].total
                note = "; in tiles, because whole frames did not fit" if phase.name in self.tiled else ""
                lines.append(
                    f"{NAMES[phase.name]}: {phase.peak / 1e9:.2f} GB planned, {peak / 1e9:.2f} GB measured "
                    f"({peak / max(1, phase.peak):.0%}){note}"
                )
        return lines

    def sentence(self, phase: str) -> str:
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


def meter_of(plan: Plan) -> Meter:
    """The meter of a plan: one for all that its loader returns and for the report."""
    key = plan.to_json()
    meter = meters.setdefault(key, Meter(plan))
    meters.move_to_end(key)
    while len(meters) > KEPT:
        meters.popitem(last=False)
    return meter


class Ledger:
    """How much a phase takes of a device, and how much of it is weights.

    On a GPU other models stay while a phase runs, and are neither its weights nor its activations. They come and go until
    the phase's first module computes, so the peak counts from there.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.start = resident_set() if device.type != "cuda" else 0

    @contextmanager
    def open(self):
        if self.device.type != "cuda":
            with contextlib.suppress(OSError):  # Linux only: forget the largest size so far
                Path("/proc/self/clear_refs").write_text("5")
            yield
            return
        torch.cuda.synchronize(self.device)
        strange = torch.cuda.memory_allocated(self.device) - loaded_by_torch(self.device)
        self.start = max(0, strange)
        torch.cuda.reset_peak_memory_stats(self.device)

        def first(module, inputs):
            hook.remove()
            torch.cuda.reset_peak_memory_stats(self.device)

        hook = torch.nn.modules.module.register_module_forward_pre_hook(first)
        try:
            yield
        finally:
            hook.remove()

    def peak(self, patcher) -> Peak:
        """What has been taken since, with the weights of `patcher` among it."""
        if self.device.type != "cuda":
            return Peak(0, max(0, largest_resident_set() - self.start))
        torch.cuda.synchronize(self.device)
        weights = patcher.loaded_size() if patcher is not None and patcher.load_device == self.device else 0
        taken = torch.cuda.max_memory_allocated(self.device)
        return Peak(weights, max(0, taken - loaded_by_torch(self.device) - self.start))


def loaded_by_torch(device: torch.device) -> int:
    """Bytes of all models' weights on the device that torch's allocator knows: not those under dynamic VRAM."""
    total = 0
    for loaded in comfy.model_management.current_loaded_models:
        if loaded.model is not None and loaded.device == device:
            total += loaded.model.model.model_loaded_weight_memory
    return total


def resident_set() -> int:
    return psutil.Process(os.getpid()).memory_info().rss


def largest_resident_set() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resident_set()
