"""The card that ComfyUI computes on, as the planner sees it, and what runs on it have measured."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfyui_version import __version__

from ..loaders.download import room
from ..machine import gpus, this_computer
from ..machine.card import Card, computer
from ..machine.memory import total_ram
from ..planning.calibration import FILE, Calibration
from ..planning.solve import Host
from . import folders

STEP, STEADY = 500_000_000, 1_000_000_000
measured: dict[torch.device, int] = {}


def calibration() -> Calibration:
    """What runs under this ComfyUI, with its version and attention, have measured."""
    attention = optimized_attention.__name__.removeprefix("attention_")
    return Calibration(folders.state(FILE), f"{__version__}/{attention}")


def present_card() -> Card:
    """The card that ComfyUI computes on, with all memory that other programs do not use; else the computer itself.

    What ComfyUI itself holds counts as free, so that the second prompt chooses what the first did, and what was measured
    stands until it is more than a GB off. Without a GPU it is half of the computer's memory.
    """
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":
        return computer(total_ram(), comfy.model_management.get_total_memory(device) // 2)
    total, name = torch.cuda.get_device_properties(device).total_memory, torch.cuda.get_device_name(device)
    sm, known = capability(device), gpus.known_as(name)
    if known is None:  # the rates of the card most like it
        found = gpus.as_like(name, total, 0, sm)
    else:
        found = replace(known, name=name, total=total, sm=sm, fp8=known.fp8 if sm >= gpus.FP8_SM else 0.0)
    return replace(found, free=free_memory(device), fused=this_computer.has_fused_kernels())


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that are free or ComfyUI's own, in steps of half a GB."""
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    for loaded in comfy.model_management.current_loaded_models:
        patcher = loaded.model
        if patcher is not None and patcher.is_dynamic() and patcher.load_device == device:
            free += patcher.loaded_size()
    free = int(min(free, torch.cuda.get_device_properties(device).total_memory) // STEP * STEP)
    if abs(free - measured.get(device, 0)) > STEADY:
        measured[device] = free
    return measured[device]


def capability(device: torch.device) -> int:
    """89 for 8.9; less where fp8 cannot be multiplied: AMD numbers its cards otherwise, and PyTorch may be too old."""
    major, minor = torch.cuda.get_device_capability(device)
    sm = 10 * major + minor
    return sm if comfy.model_management.supports_fp8_compute(device) else min(sm, gpus.FP8_SM - 1)


def host() -> Host:
    """This computer, or its container: half a GB more or less of RAM makes no other plan."""
    try:
        disk = room.usage(Path(folder_paths.models_dir, "any")).free  # the folder itself may not be there yet
    except OSError:
        disk = 0
    return Host(ram=total_ram() // STEP * STEP, disk=disk)
