"""Which of our GPU kernels work here: each is tried once a device and type at a tiny size, and torch does what one cannot."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from ..base.reason import reason
from . import int8
from .blocks import BLOCKS, dequantise

# A trial makes a kernel's answer and torch's, and says by how much they may differ, relative to torch's.
Trial = Callable[..., tuple[torch.Tensor, torch.Tensor, float]]

found: dict[tuple, bool] = {}
said: set[str] = set()  # so that Triton missing is one line, and not one for every kernel


def capable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device has 16-bit and 8-bit matrix products for such inputs: NVIDIA, RTX 30 series or later."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def works(trial: Trial, device: torch.device, dtype: torch.dtype, *arguments: Any) -> bool:
    """Whether the kernel that `trial(device, dtype, *arguments)` starts runs there and agrees with torch.

    The first answer is kept, but for memory that ran out, which says nothing about the kernel.
    """
    key = (trial, device, dtype, *arguments)
    if key not in found:
        try:
            with torch.cuda.device(device):
                ours, exact, limit = trial(device, dtype, *arguments)
                exact = exact.float()
                error = ((ours.float() - exact).norm() / exact.norm()).item()
            if not error <= limit:
                raise ArithmeticError(f"its numbers are off by {error:.1g}")
        except Exception as err:  # an installation of Triton can fail in many ways, and none of them ends a run
            if "out of memory" in f"{type(err).__name__} {err}".lower():
                return False
            found[key] = False
            why = reason(err)
            if why not in said:
                said.add(why)
                logging.warning(
                    "PyTorch does what our GPU kernel would (%s), and slower, because it cannot be used here: %s",
                    trial.__doc__,
                    why,
                )
            return False
        found[key] = True
    return found[key]


def pattern(*shape: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Numbers from -1 to 1, always the same ones; a generator's state is a user's seed."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float32, device=device) * 1.7).view(shape).to(dtype)


def unpacking(device: torch.device, dtype: torch.dtype, number: int) -> tuple:
    """unpacking GGUF"""
    from . import triton_kernels

    kind = BLOCKS[number]
    # bytes up to 60, of which no float16 is infinite
    packed = (torch.arange(5 * kind.bytes, device=device) * 7 % 61).to(torch.uint8).view(5, kind.bytes)
    ours, exact = (torch.empty(5 * kind.weights, dtype=dtype, device=device) for _ in range(2))
    return triton_kernels.dequantise(packed, number, ours), dequantise(packed, kind, exact), 0.0


def multiplying(device: torch.device, dtype: torch.dtype) -> tuple:
    """8-bit layers"""
    from . import triton_int8

    x, weight, bias = (pattern(*shape, device=device, dtype=dtype) for shape in ((130, 256), (200, 256), (200,)))
    codes, scale = int8.quantise(weight)
    return triton_int8.linear(x, codes, scale, bias), int8.linear(x, codes, scale, bias), 0.02
