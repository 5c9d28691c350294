"""GGUF blocks and 8-bit tiles as ComfyUI's quantised tensors: true shape, packed size, any device."""

from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from comfy.quant_ops import QuantizedLayout, QuantizedTensor, register_layout_class
from comfy_kitchen.tensor import BaseLayoutParams

from ..formats.ggml_types import NUMBERS
from . import int8, trials
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
        """Itself: there is no tensor in it to move."""
        return self

    def clone(self) -> "BlockParams":
        """Another one, for `copy_from` to change."""
        return replace(self)

    def copy_from(self, src: "BlockParams", non_blocking: bool = False) -> None:
        """Becomes what `src` is, as ComfyUI asks of parameters in place."""
        object.__setattr__(self, "orig_dtype", src.orig_dtype)
        object.__setattr__(self, "orig_shape", src.orig_shape)
        object.__setattr__(self, "number", src.number)


class GGUFLayout(QuantizedLayout):
    """uint8 [..., bytes of a row] that stands for [..., weights of a row]. There is no way back from numbers to blocks."""

    Params = BlockParams

    @classmethod
    def quantize(cls, tensor: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, BlockParams]:
        """Raises ValueError: blocks are written by llama.cpp's tools and not here."""
        raise ValueError("GGUF weights cannot be written while a model runs. Use an fp8 or fp16 variant for that.")

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: BlockParams) -> torch.Tensor:
        """The weights in `orig_dtype`."""
        return torch.ops.steadydancer.dequantise(qdata, params.number, params.orig_dtype)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[torch.Tensor, ...]:
        """The blocks, uint8."""
        return (qtensor._qdata,)

    @classmethod
    def state_dict_tensors(cls, qdata: torch.Tensor, params: BlockParams) -> dict[str, torch.Tensor]:
        """The blocks under the weight's own name."""
        return {"": qdata}


class Int8Layout(QuantizedLayout):
    """int8 [N, K] with a float32 scale for every 128×128 of them."""

    Params = BaseLayoutParams

    @classmethod
    def quantize(cls, tensor: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, BaseLayoutParams]:
        """As int8.quantise, for [N, K]."""
        codes, scale = int8.quantise(tensor)
        return codes, BaseLayoutParams(scale, tensor.dtype, tuple(tensor.shape))

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: BaseLayoutParams) -> torch.Tensor:
        """The weights in `orig_dtype`."""
        return int8.dequantise(qdata, params.scale, torch.empty_like(qdata, dtype=params.orig_dtype))

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[torch.Tensor, ...]:
        """The int8 numbers and their scales."""
        return qtensor._qdata, qtensor._params.scale

    @classmethod
    def state_dict_tensors(cls, qdata: torch.Tensor, params: BaseLayoutParams) -> dict[str, torch.Tensor]:
        """The numbers under the weight's own name, the scales under `<name>_scale`."""
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


def is_packed(tensor: object) -> TypeGuard[QuantizedTensor]:
    """Whether a tensor is in one of our two layouts."""
    return isinstance(tensor, QuantizedTensor) and tensor._layout_cls in (LAYOUT, INT8_LAYOUT)


@torch.compiler.assume_constant_result
def multiplies_8_bits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device's 8-bit units multiply such inputs, and faster than 16-bit ones do.

    torch.compile does not trace how that is found out. On B200 (10.x) Triton compiles the product to instructions of older
    cards, slower than its own 16-bit ones.
    """
    if not trials.capable(device, dtype) or torch.cuda.get_device_capability(device)[0] == 10:
        return False
    return trials.works(trials.multiplying, device, dtype)


def multiplies_packed(weight: torch.Tensor, input: torch.Tensor) -> bool:
    """Whether the 8-bit units of the input's GPU can multiply with this weight as it is."""
    is_int8 = is_packed(weight) and weight._layout_cls == INT8_LAYOUT
    return is_int8 and input.shape[-1] % int8.BLOCK == 0 and multiplies_8_bits(input.device, input.dtype)


# Types of GGUF that a kernel unpacks; the rest are too rare for one.
UNPACKED_BY_KERNEL = tuple(
    NUMBERS[name] for name in ("Q5_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
)


def unpacks_by_kernel(number: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether our kernel unpacks ggml's type `number` to `dtype` on this device; else torch does."""
    if device.type != "cuda" or number not in UNPACKED_BY_KERNEL:
        return False
    return trials.works(trials.unpacking, device, dtype, number)


def fill(qdata: torch.Tensor, number: int, out: torch.Tensor) -> torch.Tensor:
    """Unpacks into `out`, contiguous and of one of the three float types, by the fastest way there is here."""
    if not unpacks_by_kernel(number, qdata.device, out.dtype):
        return dequantise(qdata, BLOCKS[number], out)
    from . import triton_kernels

    with torch.cuda.device(qdata.device):
        return triton_kernels.dequantise(qdata.contiguous(), number, out)


# One operation to torch.compile: it need not look into the kernels.
@torch.library.custom_op("steadydancer::int8_linear", mutates_args=())
def int8_linear(
    input: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """int8.linear, on a GPU by our kernel: one operation to torch.compile."""
    if not input.is_cuda:
        return int8.linear(input, codes, scale, bias)
    from . import triton_int8

    with torch.cuda.device(input.device):
        return triton_int8.linear(input, codes, scale, bias)


@int8_linear.register_fake
def _(input: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return input.new_empty(*input.shape[:-1], len(codes))


# One operation to torch.compile, which would else take the arithmetic apart and copy for every slice.
@torch.library.custom_op("steadydancer::dequantise", mutates_args=())
def dequantise_op(qdata: torch.Tensor, number: int, dtype: torch.dtype) -> torch.Tensor:
    """Blocks as plain numbers in `dtype`: one operation to torch.compile."""
    return fill(qdata, number, like(qdata, number, dtype))


@dequantise_op.register_fake
def like(qdata: torch.Tensor, number: int, dtype: torch.dtype) -> torch.Tensor:
    """An empty tensor of the shape and type that `dequantise_op` gives."""
    block = BLOCKS[number]
    weights = qdata.shape[-1] // block.bytes * block.weights
    return qdata.new_empty((*qdata.shape[:-1], weights), dtype=dtype)


class Scratch:
    """The memory that one layer after the other is unpacked into, as large as the largest so far, one piece a device."""

    def __init__(self) -> None:
        self.memory: dict[torch.device, torch.Tensor] = {}

    def bytes(self, device: torch.device, size: int) -> torch.Tensor:
        """uint8 [size], or more, on the device."""
        memory = self.memory.get(device)
        if memory is None or memory.numel() < size:
            self.memory.pop(device, None)
            memory = self.memory[device] = torch.empty(size, dtype=torch.uint8, device=device)
        return memory

    def prepare(self, weights: list[QuantizedTensor], device: torch.device, dtype: torch.dtype) -> None:
        """Takes what the largest of a network's weights will need and tries the kernels out, before its blocks run.

        Memory that is first taken inside a block is lost where ComfyUI records one and plays it back.
        """
        unpacked = []
        for weight in weights:
            fits = weight._layout_cls == INT8_LAYOUT and weight.shape[-1] % int8.BLOCK == 0
            if not (fits and multiplies_8_bits(device, dtype)):
                unpacked.append(weight)
        for number in {weight._params.number for weight in unpacked if weight._layout_cls == LAYOUT}:
            unpacks_by_kernel(number, device, dtype)
        if unpacked:
            self.bytes(device, max(weight.numel() for weight in unpacked) * dtype.itemsize)

    def dense(self, weight: QuantizedTensor, dtype: torch.dtype) -> torch.Tensor:
        """The weight as plain numbers, until the next call."""
        qdata = weight._qdata
        if torch.compiler.is_compiling():
            return weight.to(dtype).dequantize()
        size = weight.numel() * dtype.itemsize
        out = self.bytes(qdata.device, size)[:size].view(dtype).view(weight.shape)
        if weight._layout_cls == INT8_LAYOUT:
            return int8.dequantise(qdata, weight._params.scale, out)
        return fill(qdata, weight._params.number, out)

    def clear(self) -> None:
        """Gives the memory back."""
        self.memory.clear()
