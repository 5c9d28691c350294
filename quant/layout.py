"""GGUF blocks and 8-bit tiles as ComfyUI's quantised tensors: true shape, packed size, any device."""

import logging
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from comfy.quant_ops import QuantizedLayout, QuantizedTensor, register_layout_class
from comfy_kitchen.tensor import BaseLayoutParams

from . import int8
from .blocks import BLOCKS, dequantise

LAYOUT = "SteadyDancerGGUF"
INT8_LAYOUT = "SteadyDancerInt8"


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


class Int8Layout(QuantizedLayout):
    """int8 [N, K] with a float32 scale for every 128×128 of them."""

    Params = BaseLayoutParams

    @classmethod
    def quantize(cls, tensor, **kwargs):
        codes, scale = int8.quantise(tensor)
        return codes, BaseLayoutParams(scale, tensor.dtype, tuple(tensor.shape))

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: BaseLayoutParams) -> torch.Tensor:
        return int8.dequantise(qdata, params.scale, torch.empty_like(qdata, dtype=params.orig_dtype))

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[torch.Tensor, ...]:
        return qtensor._qdata, qtensor._params.scale

    @classmethod
    def state_dict_tensors(cls, qdata: torch.Tensor, params: BaseLayoutParams) -> dict[str, torch.Tensor]:
        return {"": qdata, "_scale": params.scale}


register_layout_class(LAYOUT, GGUFLayout)
register_layout_class(INT8_LAYOUT, Int8Layout)


def packed(data: torch.Tensor, number: int, dtype: torch.dtype) -> QuantizedTensor:
    """uint8 blocks [..., bytes of a row] of ggml's type `number` as a tensor that stands for `dtype`."""
    block = BLOCKS[number]
    shape = (*data.shape[:-1], data.shape[-1] // block.bytes * block.weights)
    return QuantizedTensor(data, LAYOUT, BlockParams(dtype, shape, number))


def packed_int8(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> QuantizedTensor:
    """int8 [N, K] with scales [⌈N/128⌉, ⌈K/128⌉] as a tensor that stands for `dtype`."""
    return QuantizedTensor(codes, INT8_LAYOUT, BaseLayoutParams(scale, dtype, tuple(codes.shape)))


def is_packed(tensor) -> bool:
    return isinstance(tensor, QuantizedTensor) and tensor._layout_cls in (LAYOUT, INT8_LAYOUT)


def runs_kernels(input: torch.Tensor) -> bool:
    """Whether kernels with 16-bit and 8-bit matrix products run where the input is: NVIDIA, RTX 30 series or later."""
    return (
        input.is_cuda
        and input.dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(input.device) >= (8, 0)
        and kernels_work()
    )


def multiplies_packed(weight: torch.Tensor, input: torch.Tensor) -> bool:
    """Whether the 8-bit units of the input's GPU can multiply with this weight as it is."""
    is_int8 = is_packed(weight) and weight._layout_cls == INT8_LAYOUT
    return is_int8 and input.shape[-1] % int8.BLOCK == 0 and runs_kernels(input)


def fill(qdata: torch.Tensor, number: int, out: torch.Tensor) -> torch.Tensor:
    """Unpacks into `out`, contiguous and of one of the three float types, by the fastest way there is here."""
    kernels = triton_kernels() if qdata.is_cuda else None
    if kernels is None or number not in kernels.KERNELS:
        return dequantise(qdata, BLOCKS[number], out)
    with torch.cuda.device(qdata.device):
        return kernels.dequantise(qdata.contiguous(), number, out)


# One operation to torch.compile: it need not look into the kernels.
@torch.library.custom_op("steadydancer::int8_linear", mutates_args=())
def int8_linear(
    input: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    if not input.is_cuda:
        return int8.linear(input, codes, scale, bias)
    from . import triton_int8

    with torch.cuda.device(input.device):
        return triton_int8.linear(input, codes, scale, bias)


@int8_linear.register_fake
def _(input, codes, scale, bias):
    return input.new_empty(*input.shape[:-1], len(codes))


@lru_cache(maxsize=1)
def triton_kernels():
    """The module of GPU kernels, or None where Triton is not installed or does not work."""
    try:
        from . import triton_kernels

        try_out(triton_kernels)
    except Exception as err:  # an installation of Triton can fail in many ways, and none of them matters here
        logging.warning("PyTorch does what our GPU kernels would, and slower, because Triton cannot be used: %s", err)
        return None
    return triton_kernels


@torch.compiler.assume_constant_result
def kernels_work() -> bool:
    """Whether there are GPU kernels. torch.compile takes the answer as it is, and does not trace how it is found."""
    return triton_kernels() is not None


def try_out(kernels) -> None:
    """Unpacks a block. Triton builds what starts a kernel with the machine's C compiler, and there may be none."""
    blocks = torch.zeros(BLOCKS[8].bytes, dtype=torch.uint8, device="cuda")
    kernels.dequantise(blocks, 8, torch.empty(BLOCKS[8].weights, device="cuda"))


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
        qdata = weight._qdata
        if torch.compiler.is_compiling():
            return weight.to(dtype).dequantize()
        size = weight.numel() * dtype.itemsize
        memory = self.memory.get(qdata.device)
        if memory is None or memory.numel() < size:
            self.memory.pop(qdata.device, None)
            memory = self.memory[qdata.device] = torch.empty(size, dtype=torch.uint8, device=qdata.device)
        out = memory[:size].view(dtype).view(weight.shape)
        if weight._layout_cls == INT8_LAYOUT:
            return int8.dequantise(qdata, weight._params.scale, out)
        return fill(qdata, weight._params.number, out)

    def clear(self) -> None:
        self.memory.clear()
