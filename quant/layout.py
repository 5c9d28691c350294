"""GGUF blocks as one of ComfyUI's quantised tensors: true shape, packed size, any device."""

import logging
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from comfy.quant_ops import QuantizedLayout, QuantizedTensor, register_layout_class

from .blocks import BLOCKS, dequantise

LAYOUT = "SteadyDancerGGUF"


@dataclass(frozen=True)
class BlockParams:
    """What ComfyUI must know of a packed tensor: the dtype it stands for, its shape, and ggml's number of its type."""

    orig_dtype: torch.dtype
    orig_shape: tuple[int, ...]
    number: int

    def to_device(self, device: torch.device) -> "BlockParams":
        return self

    def clone(self) -> "BlockParams":
        return replace(self)

    def copy_from(self, src: "BlockParams", non_blocking: bool = False) -> None:
        object.__setattr__(self, "orig_dtype", src.orig_dtype)
        object.__setattr__(self, "orig_shape", src.orig_shape)
        object.__setattr__(self, "number", src.number)


class GGUFLayout(QuantizedLayout):
    """uint8 [..., bytes of a row] that stands for [..., weights of a row]. There is no way back from numbers to blocks."""

    Params = BlockParams

    @classmethod
    def quantize(cls, tensor, **kwargs):
        raise ValueError("GGUF weights cannot be written while a model runs. Use an fp8 or fp16 variant for that.")

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: BlockParams) -> torch.Tensor:
        return torch.ops.steadydancer.dequantise(qdata, params.number, params.orig_dtype)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[torch.Tensor, ...]:
        return (qtensor._qdata,)

    @classmethod
    def state_dict_tensors(cls, qdata: torch.Tensor, params: BlockParams) -> dict[str, torch.Tensor]:
        return {"": qdata}


register_layout_class(LAYOUT, GGUFLayout)


def packed(data: torch.Tensor, number: int, dtype: torch.dtype) -> QuantizedTensor:
    """uint8 blocks [..., bytes of a row] of ggml's type `number` as a tensor that stands for `dtype`."""
    block = BLOCKS[number]
    shape = (*data.shape[:-1], data.shape[-1] // block.bytes * block.weights)
    return QuantizedTensor(data, LAYOUT, BlockParams(dtype, shape, number))


def is_packed(tensor) -> bool:
    return isinstance(tensor, QuantizedTensor) and tensor._layout_cls == LAYOUT


def fill(qdata: torch.Tensor, number: int, out: torch.Tensor) -> torch.Tensor:
    """Unpacks into `out`, contiguous and of one of the three float types, by the fastest way there is here."""
    kernels = triton_kernels() if qdata.is_cuda else None
    if kernels is None or number not in kernels.KERNELS:
        return dequantise(qdata, BLOCKS[number], out)
    with torch.cuda.device(qdata.device):
        return kernels.dequantise(qdata.contiguous(), number, out)


@lru_cache(maxsize=1)
def triton_kernels():
    """The module of GPU kernels, or None where Triton is not installed or does not start."""
    try:
        from . import triton_kernels
    except Exception as err:  # an installation of Triton can fail in many ways, and none of them matters here
        logging.info("GGUF weights are unpacked by PyTorch, because Triton cannot be used: %s", err)
        return None
    return triton_kernels


# One operation to torch.compile, which would else take the arithmetic apart and copy for every slice.
@torch.library.custom_op("steadydancer::dequantise", mutates_args=())
def dequantise_op(qdata: torch.Tensor, number: int, dtype: torch.dtype) -> torch.Tensor:
    return fill(qdata, number, like(qdata, number, dtype))


@dequantise_op.register_fake
def like(qdata: torch.Tensor, number: int, dtype: torch.dtype) -> torch.Tensor:
    block = BLOCKS[number]
    weights = qdata.shape[-1] // block.bytes * block.weights
    return qdata.new_empty((*qdata.shape[:-1], weights), dtype=dtype)


class Scratch:
    """The memory that one layer after the other is unpacked into, as large as the largest so far, one piece a device."""

    def __init__(self):
        self.memory: dict[torch.device, torch.Tensor] = {}

    def dense(self, weight: QuantizedTensor, dtype: torch.dtype) -> torch.Tensor:
        """The weight as plain numbers, until the next call."""
        qdata, number = weight._qdata, weight._params.number
        if torch.compiler.is_compiling():
            return torch.ops.steadydancer.dequantise(qdata, number, dtype)
        size = weight.numel() * dtype.itemsize
        memory = self.memory.get(qdata.device)
        if memory is None or memory.numel() < size:
            self.memory.pop(qdata.device, None)
            memory = self.memory[qdata.device] = torch.empty(size, dtype=torch.uint8, device=qdata.device)
        return fill(qdata, number, memory[:size].view(dtype).view(weight.shape))

    def clear(self) -> None:
        self.memory.clear()
