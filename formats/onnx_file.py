"""The weights inside an .onnx file, in the order in which the graph uses them, without the onnx package.

An ONNX file is a protobuf message; only the few fields below are looked at (see onnx.proto in the ONNX project).
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

GRAPH = 7
NODE, INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_OP, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_TENSOR = 5
DIMS, DATA_TYPE, FLOATS, NAME, RAW, EXTERNAL = 1, 2, 4, 8, 9, 14
MOST_FIELDS = 200_000  # of a whole file; a pose net has some thousands
MOST_DIMENSIONS = 8
DTYPES: dict[int, np.dtype] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


@dataclass
class Weights:
    """What a graph multiplies with, in execution order; arrays are views into the file."""

    convolutions: list[tuple[np.ndarray, np.ndarray | None]] = field(default_factory=list)  # weight, bias
    matrices: list[np.ndarray] = field(default_factory=list)  # [inputs, outputs]
    factors: list[np.ndarray] = field(default_factory=list)  # of element-wise products
    summands: list[np.ndarray] = field(default_factory=list)


def read(path: Path) -> Weights:
    """Reads an .onnx file. Raises ValueError in plain words when it is none, Unusable when it is one of another kind."""
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _weights(next(part for number, part in Fields()(data) if number == GRAPH))
    except Unusable:
        raise
    except (StopIteration, IndexError, ValueError, TypeError, OverflowError) as err:
        raise ValueError("it is not a whole ONNX file") from err


class Unusable(ValueError):
    """Why a whole file cannot be used, in words."""


def _weights(graph: memoryview) -> Weights:
    fields_of = Fields()
    tensors: dict[str, np.ndarray | None] = {}
    nodes = []
    for number, part in fields_of(graph):
        if number == INITIALIZER:
            name, tensor = _tensor(part, fields_of)
            tensors[name] = tensor
        elif number == NODE:
            nodes.append(part)
    found = Weights()
    for node in nodes:
        fields = list(fields_of(node))
        op = next((_text(v) for number, v in fields if number == NODE_OP), "")
        inputs = [_text(v) for number, v in fields if number == NODE_INPUT]
        output = next(_text(v) for number, v in fields if number == NODE_OUTPUT)
        held = [tensors.get(name) for name in inputs]
        if op == "Constant":
            values = [v for number, v in fields if number == NODE_ATTRIBUTE]
            inner = next((v for value in values for number, v in fields_of(value) if number == ATTRIBUTE_TENSOR), None)
            tensors[output] = None if inner is None else _tensor(inner, fields_of)[1]
        elif op == "Identity":
            tensors[output] = held[0]
        elif op == "BatchNormalization":
            raise Unusable("it was exported without folding its normalisation layers")
        elif op == "Conv":
            if held[1] is None:
                raise Unusable("it is quantised or compressed")
            found.convolutions.append((held[1], held[2] if len(held) > 2 else None))
        elif op in ("MatMul", "Mul", "Add"):
            kept = {"MatMul": found.matrices, "Mul": found.factors, "Add": found.summands}[op]
            kept += [tensor for tensor in held if tensor is not None]
    return found


def _tensor(data: memoryview, fields_of: "Fields") -> tuple[str, np.ndarray | None]:
    """Name and values of a TensorProto; None for kinds that hold no weights (indices, shapes)."""
    shape: list[int] = []
    raw: Any = None
    kind, name, floats = 0, "", []
    for number, value in fields_of(data):
        if number == DIMS:
            shape += [value] if isinstance(value, int) else list(_packed(value[: 10 * MOST_DIMENSIONS]))
            if len(shape) > MOST_DIMENSIONS:
                raise ValueError("too many dimensions")
        elif number == DATA_TYPE:
            kind = value
        elif number == NAME:
            name = _text(value)
        elif number == RAW:
            raw = value
        elif number == FLOATS:
            floats.append(value)
        elif number == EXTERNAL:
            raise Unusable("it keeps its weights in a second file, which is not supported")
    if prod(shape) > 2 * len(data):
        raise ValueError("more numbers than bytes")
    if kind not in DTYPES:
        return name, None
    if raw is None:
        raw = b"".join(map(_bytes, floats))
    values = np.frombuffer(raw, DTYPES[kind])
    if prod(shape) != values.size:
        raise ValueError("the shape is another than the data's")
    # the other dimensions of an empty tensor could be of any size; the graph has some that are no weights
    return name, values.reshape(shape) if values.size else None


class Fields:
    """Reads protobuf messages, and no more of them than a net has: every field costs time."""

    def __init__(self) -> None:
        self.left = MOST_FIELDS

    def __call__(self, data: memoryview) -> Iterator[tuple[int, Any]]:
        """Field numbers and values of a message: whole numbers, or the bytes of what is nested."""
        at = 0
        while at < len(data):
            self.left -= 1
            if self.left < 0:
                raise ValueError("too many fields")
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = _varint(data, at)
                yield number, value
                continue
            size = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError("broken protobuf")
            yield number, data[at : at + size]
            at += size


def _bytes(value: int | memoryview) -> bytes:
    if isinstance(value, int):  # bytes(n) would be n zeros
        raise ValueError("a number where bytes are needed")
    return bytes(value)


def _text(value: int | memoryview) -> str:
    return _bytes(value).decode()


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # ten bytes hold 64 bits
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")
