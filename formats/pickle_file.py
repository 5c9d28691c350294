"""Pickled checkpoints of PyTorch: their tensors, mapped, and nothing of them run."""

import collections
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from . import model_file

OLDEST_TORCH = (2, 6)  # before it, weights_only can be got round
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
LARGEST_PROGRAM = 2 << 20  # bytes of the pickle proper; a model with a thousand tensors has 200,000
LEGACY_PARTS = 5  # pickles in a row in PyTorch's format before 1.6
REBUILDS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor", "_rebuild_sparse_tensor")


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, mapped: those of its `state_dict`, or of the only entry that it has, as ComfyUI takes
    them. Raises ValueError with what to do."""
    found = unpickled(path)
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if isinstance(state, dict) and len(state) == 1 and isinstance(only := next(iter(state.values())), dict):
        state = only
    if not isinstance(state, dict):
        raise ValueError(f"{path.name} is not a list of tensors. Choose another file.")
    return require_plain({name: value for name, value in state.items() if isinstance(value, torch.Tensor)}, path)


def unpickled(path: Path) -> object:
    """What a pickled file holds. Only plain tensors are let in: no code of the file is run.

    Raises ValueError with what to do; it is looked at before PyTorch reads it.
    """
    if tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2]) < OLDEST_TORCH:
        raise ValueError(
            f"{path.name} is a pickled file, and in PyTorch {torch.__version__} such a file can run foreign code. "
            "Update PyTorch to 2.6 or later, or use the safetensors file."
        )
    if reason := model_file.damage(path, "pickle"):
        raise ValueError(
            f"{path.name} is damaged or no checkpoint of PyTorch: it {reason}. Delete it and fetch it again."
        )
    try:
        rehearse(path)
        with torch.device("cpu"):
            return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as err:
        raise ValueError(f"{path.name} is damaged or no checkpoint of PyTorch. Delete it and fetch it again.") from err
    except Exception as err:  # UnpicklingError, which only the pickle module has a name for
        raise ValueError(
            f"{path.name} holds more than plain tensors, and loading it could run foreign code. "
            "Choose another file: that of the original publisher, or its safetensors."
        ) from err


def rehearse(path: Path) -> None:
    """Goes through a pickle without doing what it says. Raises what its reading raises, where it has more than tensors.

    PyTorch lets a pickle of 200 bytes make a `bytearray` of any size, or hash a tuple whose hash has no end.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            (entry,) = (entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == "data.pkl")
            if entry.file_size > LARGEST_PROGRAM:
                raise pickle.UnpicklingError("The pickle is longer than that of any model.")
            Rehearsal(io.BytesIO(archive.read(entry))).load()
        return
    with open(path, "rb") as file:
        program = io.BytesIO(file.read(LARGEST_PROGRAM))
    for _ in range(LEGACY_PARTS):
        Rehearsal(program).load()


class Nothing:
    """Stands for whatever a pickle would make."""

    def __new__(cls, *_: object) -> "Nothing":
        return object.__new__(cls)


class Shape(tuple):
    """A tuple that is no key of a dictionary: in a pickle its parts may share parts, so that a hash takes for ever."""

    __hash__ = None  # type: ignore[assignment]  # as Python itself says that there is none


class Rehearsal(pickle._Unpickler):
    """The unpickler in Python, of which every step can be held up; what PyTorch's has no step for, it has not either."""

    stack: list
    append: Callable[[object], None]
    pop_mark: Callable[[], list]

    def find_class(self, module: str, name: str) -> type:
        """What a pickle may name to make a tensor. Raises UnpicklingError for everything else."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        plain = module == "torch._utils" and name in REBUILDS
        plain |= module in ("torch", "torch.storage") and (name.endswith("Storage") or name in ("Size", "device"))
        plain |= module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        plain |= (module, name) in (("_codecs", "encode"), ("torch.serialization", "_get_layout"))
        if not plain:
            raise pickle.UnpicklingError(f"{module}.{name} is not needed for a tensor.")
        return Nothing

    def persistent_load(self, _: object) -> Nothing:
        """Stands for a storage: no bytes of it are read."""
        return Nothing()

    def shape(self, count: int | None) -> None:
        """What the steps that make tuples do: of all since the mark, or of the last `count`."""
        items = self.pop_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.append(Shape(items))

    dispatch = {code: step for code, step in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}
    for code, count in ((pickle.TUPLE, None), (pickle.TUPLE1, 1), (pickle.TUPLE2, 2), (pickle.TUPLE3, 3)):
        dispatch[code[0]] = partial(shape, count=count)


def require_plain(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors as they came. Raises ValueError unless they are plain and, spread out, no larger than the file.

    A view may repeat its numbers at no cost in the file: a few bytes can stand for any amount of memory.
    """
    room = 2 * path.stat().st_size  # two names may share a tensor
    for name, tensor in tensors.items():
        room -= tensor.nbytes if tensor.layout is torch.strided else room + 1
        if tensor.dtype not in NAMES or tensor.is_quantized or room < 0:
            raise ValueError(
                f"{path.name} holds '{name}' in a form that its size does not allow or that is not known here. "
                "Choose another file: that of the original publisher, or its safetensors."
            )
    return tensors
