"""A tensor's rows in another precision, by comfy-kitchen's own quantisers, and how far they are from what they were.

Rows are converted some at a time, which gives what all at once would: each has a scale of its own in int8, and fp8's one
scale is found beforehand.
"""

import errno
import io
import os
from collections.abc import Iterator
from math import prod

import torch
from comfy_kitchen import quantize_per_tensor_fp8
from comfy_kitchen.tensor import TensorWiseINT8Layout

from .recipe import Description, Step
from .source import Tensor

TYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8,
}  # fmt: skip
PIECE = 1 << 21  # weights at a time: 8 MB in float32, a tenth of a second
FP8 = torch.float8_e4m3fn
SMALLEST_FP8 = 2.0**-9
ROOM = 1.001  # float32's own rounding, beside that of the format


class Spoilt(ValueError):
    """Numbers that are not finite, or farther from the source's than their format allows. Its text follows "it"."""


def pieces(tensor: Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows as they are stored) of the whole tensor; rows of bytes where its type is none that is converted."""
    rows = max(1, PIECE // max(1, prod(tensor.shape[1:])))
    with open(tensor.path, "rb", buffering=0) as file:
        for first in range(0, tensor.rows, rows):
            count = min(rows, tensor.rows - first)
            file.seek(tensor.start + first * tensor.row_bytes)
            raw = bytearray(count * tensor.row_bytes)
            if read_into(file, raw) != len(raw):
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(tensor.path))
            numbers = torch.frombuffer(raw, dtype=TYPES.get(tensor.dtype, torch.uint8))
            yield first, numbers.view(count, *tensor.shape[1:]) if tensor.dtype in TYPES else numbers


def read_into(file: io.FileIO, raw: bytearray) -> int:
    """Fills `raw` from an unbuffered file, which may give less at a time. Returns how many bytes there were."""
    view, done = memoryview(raw), 0
    while done < len(raw) and (count := file.readinto(view[done:])):
        done += count
    return done


def largest(step: Step) -> Iterator[torch.Tensor]:
    """The largest magnitude of each piece, float32; nothing where the step does not ask for it."""
    if step.kind == "fp8":
        for _, rows in pieces(step.tensor):
            yield finite(rows.float()).abs().amax()


def converted(step: Step, rows: torch.Tensor, amax: float) -> tuple[dict[str, torch.Tensor], float, float]:
    """Some rows of a tensor as the parts that they become, and the squares of error and of the numbers themselves.

    `amax` is the largest magnitude of the whole tensor. Raises Spoilt where a number is farther off than the format says.
    """
    name = step.name
    if step.kind == "keep":
        return {name: rows}, 0.0, 0.0
    exact = finite(rows.float())
    whole = exact.norm(dim=1)
    if step.kind == "cast":
        stored = finite(rows.to(TYPES[step.parts[name].dtype]))
        return {name: stored}, squared(stored.float().sub_(exact)), squared(whole)
    scale_name = f"{name}_scale"
    if step.kind == "fp8":
        scale = torch.tensor(max(amax / torch.finfo(FP8).max, torch.finfo(torch.float32).tiny))
        stored = quantize_per_tensor_fp8(exact, scale, FP8)
        off = stored.float().mul_(scale).sub_(exact)
        # half of the last of three bits, and half of the smallest number
        require(off.abs() <= ROOM * (exact.abs() / 16 + scale * SMALLEST_FP8 / 2))
        return {name: stored, scale_name: scale}, squared(off), squared(whole)
    rotation = {"convrot": True, "convrot_groupsize": step.group} if step.group else {}
    stored, params = TensorWiseINT8Layout.quantize(exact, is_weight=True, per_channel=True, **rotation)
    distance = TensorWiseINT8Layout.dequantize(stored, params).sub_(exact).norm(dim=1)
    # half a step for every number of the rotated row, whose length a rotation back does not change
    require(distance <= ROOM * params.scale[:, 0] / 2 * exact.shape[1] ** 0.5 + 1e-6 * whole)
    return {name: stored, scale_name: params.scale}, squared(distance), squared(whole)


def description(part: Description) -> torch.Tensor:
    """A layer's `comfy_quant` as bytes."""
    return torch.frombuffer(bytearray(part.text.encode()), dtype=torch.uint8)


def finite(numbers: torch.Tensor) -> torch.Tensor:
    """The numbers as they came. Raises Spoilt where one of them is infinite or none."""
    if not numbers.isfinite().all():
        raise Spoilt(f"has numbers that are not finite in {str(numbers.dtype).removeprefix('torch.')}")
    return numbers


def require(within: torch.Tensor) -> None:
    """Raises Spoilt where not every row is as near to the original as its format allows."""
    if not within.all():
        raise Spoilt("came out farther from the original than its format allows")


def squared(numbers: torch.Tensor) -> float:
    """The square of their length."""
    return numbers.norm().item() ** 2
