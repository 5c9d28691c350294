"""What a run really took: peaks of memory by phase, and a helpful error where a phase ran out of it."""

import contextlib
import os
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import psutil
import torch

from ..budget.calibration import Calibration, Measurement, measurement
from ..budget.plan import Plan
from ..budget.solve import NAMES
from ..budget.weights import kind_of

RAN_OUT = 1.25  # a phase that ran out of memory is planned with this much more the next time
KEPT = 8
meters: "OrderedDict[str, Meter]" = OrderedDict()


class OutOfMemory(torch.OutOfMemoryError):
    """Still what ComfyUI takes for running out of memory, but says in which phase, with which numbers, and what to do."""


class Meter:
    """The peaks of one plan's runs, in bytes: of torch's allocator on a GPU, else what the process grew by."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.peaks: dict[str, int] = {}
        self.tiled: set[str] = set()
        self.fresh: list[Measurement] = []
        self.calibration: Calibration | None = None
        self.running = False

    @contextmanager
    def measured(self, phase: str, patcher=None):
        """Measures what happens inside as `phase`."""
        if self.running:
            yield  # a phase within a phase
            return
        self.running = True
        device = comfy.model_management.get_torch_device()
        start = begin(device)
        try:
            yield
            self.add(phase, end(device, start) + outside(patcher))
        except Exception as err:
            if not comfy.model_management.is_oom(err):
                raise
            self.ran_out(phase)
            raise OutOfMemory(self.sentence(phase)) from err
        finally:
            self.running = False

    def add(self, phase: str, peak: int) -> None:
        self.peaks[phase] = max(peak, self.peaks.get(phase, 0))
        if phase in self.tiled:
            self.ran_out(phase)
        elif self.plan.card.sm:  # what a process grew by says little: its heap keeps what earlier runs freed
            self.keep(measurement(self.plan, self.kind, phase, self.peaks[phase]))

    def ran_out(self, phase: str) -> None:
        planned = self.plan.phase(phase)
        if planned is not None and self.calibration is not None:
            taken = planned.weights + planned.transient + round(RAN_OUT * planned.activations)
            found = measurement(self.plan, self.kind, phase, taken, ran_out=True)
            self.calibration.add([found] if found else [])

    def keep(self, found: Measurement | None) -> None:
        if found:
            self.fresh = [*(run for run in self.fresh if run.phase != found.phase), found]

    @property
    def kind(self) -> str:
        architecture = kind_of(self.plan.variant)["architecture"]
        return self.calibration.kind(architecture, self.plan.card) if self.calibration else architecture

    def take(self) -> list[Measurement]:
        """The measurements since the last time, for the calibration."""
        taken, self.fresh = self.fresh, []
        return taken

    def lines(self) -> list[str]:
        """Predicted and measured GB a phase; empty where nothing was measured."""
        if not self.peaks:
            return []
        lines = [f"{'phase':<22} {'planned GB':>10} {'measured GB':>11} {'ratio':>6}"]
        for phase in self.plan.phases:
            if phase.name in self.peaks:
                peak = self.peaks[phase.name]
                note = "  in tiles, because whole frames did not fit" if phase.name in self.tiled else ""
                lines.append(
                    f"{NAMES[phase.name]:<22} {phase.peak / 1e9:>10.2f} {peak / 1e9:>11.2f} "
                    f"{peak / max(1, phase.peak):>6.2f}{note}"
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


def begin(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    with contextlib.suppress(OSError):  # Linux only: forget the largest size so far
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process(os.getpid()).memory_info().rss


def end(device: torch.device, start: int) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return max(0, int(line.split()[1]) * 1024 - start)
    return max(0, psutil.Process(os.getpid()).memory_info().rss - start)


def outside(patcher) -> int:
    """Bytes of weights on the GPU that torch's allocator does not know: those under dynamic VRAM."""
    if patcher is None or not patcher.is_dynamic() or patcher.load_device.type != "cuda":
        return 0
    return patcher.loaded_size()
