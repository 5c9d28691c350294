"""A graphics card, in bytes and rates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU: bytes in all, bytes that models may use, compute capability (89 for 8.9), FLOP/s, bytes/s, US dollars an hour.

    What is neither usable nor the CUDA context is held by other programs. `sm` is 0 for a computer without a GPU, whose
    memory is then the computer's. `fused`: ComfyUI has its CUDA kernels, and the rotary embedding needs no extra memory.
    """

    name: str
    total: int
    free: int
    sm: int
    bf16: float = 0.0
    fp8: float = 0.0
    bandwidth: float = 0.0
    pcie: float = 0.0
    price: float | None = None
    fused: bool = False


CPU_RATE, CPU_BANDWIDTH = 0.15e12, 20e9


def computer(total: int = 0, free: int = 0) -> Card:
    """A computer without a GPU: bytes of RAM in all, and those that a model may use."""
    return Card("this computer", total, free, 0, CPU_RATE, 0.0, CPU_BANDWIDTH)
