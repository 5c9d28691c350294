"""What the pod's variables and the server's flags decide beforehand: how memory is used, how good, which variant."""

import re
import sys
from dataclasses import replace

from ..base import environment
from ..catalog.names import of_precision, quants
from ..machine.card import Card
from .solve import Rules

MODES = ("auto", "full", "model_cpu_offload", "sequential_cpu_offload")
# what else may be written for a GGUF type, in small letters
SHORT_TYPES = {"q2": "Q2_K", "q3": "Q3_K_M", "q4": "Q4_K_M", "q5": "Q5_K_M", "q6": "Q6_K", "q8": "Q8_0"}
# GPU_TIER of a pod → the preference where a node says auto
TIERS = {"auto": "balanced", "consumer": "balanced", "prosumer": "balanced", "datacenter": "quality"}


def flags() -> list[str]:
    """The flags of the ComfyUI that this runs in, else those that COMFYUI_ARGS will give to it."""
    return sys.argv[1:] if "comfy.cli_args" in sys.modules else environment.text("COMFYUI_ARGS").split()


def forced() -> Rules:
    """What the server's flags or GPU_MEMORY_MODE say about the blocks."""
    for flag in ("--novram", "--gpu-only", "--highvram"):
        if flag in flags():
            everything = flag != "--novram"
            return Rules("all" if everything else "none", everything, f"Start ComfyUI without {flag}")
    if mode() == "sequential_cpu_offload":
        return Rules("none")
    if mode() in ("full", "model_cpu_offload"):
        return Rules("all", undo="Set GPU_MEMORY_MODE to auto")
    return Rules()


def reserved(card: Card) -> Card:
    """The card without what the server's flags reserve."""
    found = re.search(r"--reserve-vram[ =]([\d.]+)", " ".join(flags()))
    return replace(card, free=max(0, card.free - round(float(found[1]) * (1 << 30)))) if found else card


def mode() -> str:
    """How memory is to be used: STEADYDANCER_GPU_MEMORY_MODE, else GPU_MEMORY_MODE."""
    own = one_of("STEADYDANCER_GPU_MEMORY_MODE", MODES)
    return one_of("GPU_MEMORY_MODE", MODES) if own == "auto" else own


def preferred() -> str:
    """The preference that `auto` means: by GPU_TIER."""
    return TIERS[one_of("GPU_TIER", tuple(TIERS))]


def named_variant(family: str) -> str | None:
    """The variant that STEADYDANCER_VARIANT names, with STEADYDANCER_GGUF_MODEL; None where it leaves the choice to us.

    Raises ValueError naming the variable when its value is none of the family's variants.
    """
    if family != "steadydancer":
        return None
    wish = one_of("STEADYDANCER_VARIANT", ("auto", "fp8", "fp16", "int8_convrot", "gguf"))
    if wish == "auto":
        return None
    if wish != "gguf":
        return of_precision(family, wish)
    types = quants(family)
    short = SHORT_TYPES.get(environment.text("STEADYDANCER_GGUF_MODEL").lower())
    return types[short or one_of("STEADYDANCER_GGUF_MODEL", tuple(types), "Q4_K_M")]


def one_of(variable: str, values: tuple[str, ...], default: str = "auto") -> str:
    """The variable's value as `values` spell it. Raises ValueError naming the variable where it is none of them."""
    value = environment.text(variable, default)
    found = next((known for known in values if known.lower() == value.lower()), None)
    if found is None:
        raise ValueError(f"{variable} is '{value}', which is not a valid value. Set it to one of {', '.join(values)}.")
    return found
