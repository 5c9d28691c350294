"""What a run really takes: peaks of memory by phase."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import psutil
import torch
from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class Peak:
    """Bytes of a phase: its model's weights, and what it needed beside them as activations."""

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.activations


class Meter:
    """The peaks of runs by phase, in bytes: of torch's allocator on a GPU, else what the process grew by."""

    def __init__(self) -> None:
        self.peaks: dict[str, Peak] = {}
        self.fresh: set[str] = set()  # phases measured since the last report: evaluations of one run are one peak
        self.tiled: set[str] = set()  # those of them that ComfyUI finished in tiles
        self.running = False

    @contextmanager
    def measured(self, phase: str, patcher: ModelPatcher | None = None) -> Iterator[None]:
        """Measures what happens inside as `phase`."""
        device = comfy.model_management.get_torch_device()
        # A phase within a phase; or one that runs elsewhere (--cpu-vae), of which the device would say that it takes nothing.
        if self.running or (patcher is not None and patcher.load_device != device):
            yield
            return
        self.running = True
        if phase not in self.fresh:
            self.tiled.discard(phase)
        ledger = Ledger(device)
        try:
            with ledger.open():
                yield
            self.add(phase, ledger.peak(patcher))
        finally:
            self.running = False

    def add(self, phase: str, peak: Peak) -> None:
        """Notes a peak; of several since the last report, the one that needed most beside the weights stays."""
        before = self.peaks.get(phase) if phase in self.fresh else None
        self.peaks[phase] = peak if before is None else max(peak, before, key=lambda taken: taken.activations)
        self.fresh.add(phase)

    def take(self) -> set[str]:
        """The phases that were measured whole since the last time."""
        whole, self.fresh = self.fresh - self.tiled, set()
        return whole


class Ledger:
    """How much a phase takes of a device, and how much of it is weights.

    On a GPU other models stay while a phase runs, and are neither its weights nor its activations. They come and go until
    the phase's first module computes, so the peak counts from there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = resident_set() if device.type != "cuda" else 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Counts what is taken while it is open. Afterwards `peak` says how much."""
        if self.device.type != "cuda":
            with contextlib.suppress(OSError):  # Linux only: forget the largest size so far
                Path("/proc/self/clear_refs").write_text("5")
            yield
            return
        torch.cuda.synchronize(self.device)
        strange = torch.cuda.memory_allocated(self.device) - loaded_by_torch(self.device)
        self.start = max(0, strange)
        torch.cuda.reset_peak_memory_stats(self.device)

        def first(module: torch.nn.Module, inputs: tuple) -> None:
            hook.remove()
            torch.cuda.reset_peak_memory_stats(self.device)

        hook = torch.nn.modules.module.register_module_forward_pre_hook(first)
        try:
            yield
        finally:
            hook.remove()

    def peak(self, patcher: ModelPatcher | None) -> Peak:
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
    """Bytes of RAM that this process holds."""
    return psutil.Process(os.getpid()).memory_info().rss


def largest_resident_set() -> int:
    """The most bytes of RAM that this process held since its record was cleared; without a /proc, what it holds now."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resident_set()
