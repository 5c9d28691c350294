"""The graphics card of this computer for commands, which run without ComfyUI: torch says what it is, where there is a torch."""

from dataclasses import replace

from . import gpus
from .card import Card


class NoCard(ValueError):
    """This computer has no card that torch can see; the text says why."""


def present_card() -> Card:
    """The first card, with as much of it as is free where no program but the desktop uses it. Raises NoCard."""
    try:
        import torch
    except ImportError as err:
        raise NoCard("torch is not installed for this Python, so its GPU is not known") from err
    if not torch.cuda.is_available():
        raise NoCard("there is no GPU that torch can use")
    properties = torch.cuda.get_device_properties(0)
    sm = 10 * properties.major + properties.minor
    if torch.version.hip:
        sm = min(sm, gpus.FP8_SM - 1)  # AMD numbers its cards otherwise
    total = properties.total_memory
    known = gpus.known_as(properties.name)
    found = known or gpus.as_like(properties.name, total, gpus.usable(total), sm)
    return replace(found, fused=has_fused_kernels())


def has_fused_kernels() -> bool:
    """ComfyUI switches its own CUDA kernels on from CUDA 13."""
    import torch

    return int((torch.version.cuda or "0").partition(".")[0]) >= 13
