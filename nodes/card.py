"""The card that ComfyUI computes on, as the planner sees it, and what runs on it have measured."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfyui_version import __version__

from ..budget import gpus
from ..budget.calibration import Calibration
from ..budget.plan import Card
from ..loaders import selector
from ..storage.memory import total_ram
from .selector import this_card

CPU_RATE, CPU_BANDWIDTH = 0.15e12, 20e9


def calibration() -> Calibration:
    attention = optimized_attention.__name__.removeprefix("attention_")
    return Calibration(Path(folder_paths.get_user_directory()), f"{__version__}/{attention}")


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
