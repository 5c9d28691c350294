"""bfloat16 in Triton's interpreter, which keeps it as its bits and adds and compares those: numbers in float32 instead, rounded
to bfloat16 wherever a kernel's type says so, as a GPU does."""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

BF16 = tl.bfloat16


def bits(numbers: np.ndarray) -> np.ndarray:
    """The bfloat16 nearest to each float32, ties to even, as uint16."""
    whole = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    nearest = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, nearest).astype(np.uint16)


def widened(halves: np.ndarray) -> np.ndarray:
    return (halves.astype(np.uint32) << 16).view(np.float32)


def rounded(handle: TensorHandle) -> TensorHandle:
    """The result of an operation, in its type."""
    if handle.dtype.scalar != BF16:
        return handle
    return TensorHandle(widened(bits(handle.data)), BF16)


def install(monkeypatch) -> None:
    """Until the test ends."""
    builder, numpy_type, fits = InterpreterBuilder, interpreter._get_np_dtype, interpreter._validate_np_data_size
    load, store, cast = builder.create_masked_load, builder.create_masked_store, builder.cast_impl

    def create_masked_load(self, ptrs, mask, other, *rest):
        if ptrs.get_element_ty() != BF16:
            return load(self, ptrs, mask, other, *rest)
        missing = np.zeros(ptrs.data.shape, np.uint16) if other is None else bits(other.data)
        found = interpreter._interpreter.load(ptrs.data, mask.data, missing, np.dtype(np.uint16))
        return TensorHandle(widened(found), BF16)

    def create_masked_store(self, ptrs, value, mask, *rest):
        if ptrs.get_element_ty() != BF16:
            return store(self, ptrs, value, mask, *rest)
        return interpreter._interpreter.store(ptrs.data, bits(value.data), mask.data)

    def cast_impl(self, src, dst_type):
        if BF16 not in (src.dtype.scalar, dst_type.scalar):
            return cast(self, src, dst_type)
        return rounded(TensorHandle(src.data.astype(interpreter._get_np_dtype(dst_type.scalar)), dst_type.scalar))

    monkeypatch.setattr(interpreter, "_get_np_dtype", lambda t: np.dtype(np.float32) if t == BF16 else numpy_type(t))
    monkeypatch.setattr(interpreter, "_validate_np_data_size", lambda data, t: t.scalar == BF16 or fits(data, t))
    for function in (create_masked_load, create_masked_store, cast_impl):
        monkeypatch.setattr(builder, function.__name__, function)
    for name in ("binary_op", "ternary_op", "unary_op"):
        plain = getattr(builder, name)
        monkeypatch.setattr(builder, name, lambda self, *args, plain=plain: rounded(plain(self, *args)))
