"""The card that ComfyUI computes on, as the planner sees it, and what runs on it have measured."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfyui_version import __version__

from ..machine import gpus
from ..machine.card import Card
from ..planning import selector
from ..planning.calibration import Calibration
from ..storage.memory import total_ram

CPU_RATE, CPU_BANDWIDTH = 0.15e12, 20e9
STEADY_GB = 1.0
measured: dict[torch.device, float] = {}


def calibration() -> Calibration:
    attention = optimized_attention.__name__.removeprefix("attention_")
    return Calibration(Path(folder_paths.get_user_directory()), f"{__version__}/{attention}")


def this_card() -> selector.Card:
    """The GPU that ComfyUI computes on, with all memory that other programs do not use.

    What ComfyUI itself holds counts as free, so that the second prompt chooses what the first did, and what was measured
    stands until it is more than a GB off. Without a GPU it is half of the computer's memory.
    """
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":
        return selector.Card("this computer", comfy.model_management.get_total_memory(device) / 2e9, 0)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    for loaded in comfy.model_management.current_loaded_models:
        patcher = loaded.model
        if patcher is not None and patcher.is_dynamic() and patcher.load_device == device:
            free += patcher.loaded_size()
    gb = min(free, torch.cuda.get_device_properties(device).total_memory) // 5e8 / 2
    if abs(gb - measured.get(device, 0.0)) > STEADY_GB:
        measured[device] = gb
    major, minor = torch.cuda.get_device_capability(device)
    sm = 10 * major + minor
    # AMD numbers its cards otherwise, and PyTorch may be too old.
    if not comfy.model_management.supports_fp8_compute(device):
        sm = min(sm, selector.rules()["native"]["sm"] - 1)
    return selector.Card("this GPU", measured[device], sm)


def present_card() -> Card:
    """The card that ComfyUI computes on, or the computer itself, with what models may use of it."""
    usable, device = this_card(), comfy.model_management.get_torch_device()
    free = round(usable.gb * 1e9)
    if usable.sm == 0:
        total = total_ram()
        return Card("this computer", total, free, 0, CPU_RATE, 0.0, CPU_BANDWIDTH)
    total, name = torch.cuda.get_device_properties(device).total_memory, torch.cuda.get_device_name(device)
    known = gpus.known_as(name)
    like = known or gpus.nearest(total, usable.sm)  # of an unknown card, the rates of the one most like it
    price = known.price if known else None
    fp8 = like.fp8 if usable.sm >= selector.rules()["native"]["sm"] else 0.0
    rates = {"sm": usable.sm, "fp8": fp8, "price": price, "fused": has_fused_kernels()}
    return replace(like, name=name, total=total, free=free, **rates)


def has_fused_kernels() -> bool:
    """ComfyUI switches its own CUDA kernels on from CUDA 13."""
    return int((torch.version.cuda or "0").partition(".")[0]) >= 13
