"""What a model file is by its content, before anything is loaded: whole, damaged, or of a kind that is not loaded here.

Only headers are read, in time and memory that a file of its size deserves. Needs nothing but the standard library.
"""

import re
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .gguf_file import GGUFError, open_gguf
from .safetensors_file import safetensors_damage, safetensors_header

AGAIN = "Download the file again, or choose another variant."
ANOTHER = "Choose a file of another kind, such as fp16, scaled fp8 or GGUF."
PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".pt2", ".pkl")
FORMATS = {".safetensors": "safetensors", ".sft": "safetensors", ".gguf": "gguf", ".onnx": "onnx"} | dict.fromkeys(
    PICKLED, "pickle"
)
LARGEST_DIRECTORY = 32 << 20
LARGEST_MESSAGE = 1000  # fields of an ONNX file's outermost message; there are about ten

TEXTS = (
    ((b"<!doctype html", b"<html", b"<head", b"<body"), "is a web page and not a model: a site answered with a page"),
    ((b"<",), "is a text and not a model: mostly the error message of a server"),
    ((b"version https://git-lfs",), "is a Git LFS pointer: only a note of where the model lies"),
    ((b"{", b"["), "is a text and not a model: mostly the error message of a server"),
)
ARCHIVES = {
    b"\x1f\x8b": "gzip", b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}  # fmt: skip
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8")

# What other quantisers call a layer's parts: (end of a name, what it is). The first that fits names the file.
FOREIGN = (
    (".weight._data", "is quantised by optimum-quanto"),
    (".weight.absmax", "is quantised by bitsandbytes (nf4 or fp4)"),
    (".weight.quant_map", "is quantised by bitsandbytes (nf4 or fp4)"),
    (".SCB", "is quantised by bitsandbytes (int8)"),
    (".wscales", "is quantised by nunchaku (SVDQuant)"),
    (".smooth_factor", "is quantised by nunchaku (SVDQuant)"),
    (".g_idx", "is quantised by GPTQ"),
    (".qzeros", "is quantised by AWQ or GPTQ"),
    (".qweight", "is quantised by AWQ, GPTQ or nunchaku"),
    (".weight_packed", "is quantised by compressed-tensors (vLLM)"),
    (".weight_scale_inv", "is stored as fp8 with a scale for every block"),
    (".W_q", "is quantised by HQQ"),
    (".q_scale_max", "is quantised by ExLlama"),
    (".trellis", "is quantised by ExLlama"),
    (".encoded_exponent", "is compressed by DFloat11"),
    (":qdata", "is quantised by torchao"),
    ("._weight_qdata", "is quantised by torchao"),
    (".int8_weight", "is TurboDiffusion's int8, which only Load TurboDiffusion reads"),
)
SPLIT = re.compile(r"(.+)-(\d{1,5})-of-(\d{1,5})(\.\w+)", re.IGNORECASE)
WAN_BLOCK = re.compile(r"(?P<prefix>(?:.+\.)?)blocks\.(?P<number>\d+)\.self_attn\.q\.weight")
WAN_ENDS = ("patch_embedding.weight", "time_embedding.0.weight", "head.modulation", "head.head.weight")


class Wrong(Exception):
    """Why a file is not what it should be, in words that follow "it"."""


class Other(Wrong):
    """The same of a file that may well be whole, and is something else."""


def damage(path: Path, format: str = "") -> str:
    """Why the file is not the whole file of its format, in words that follow "it"; empty where it is.

    `format` is one of FORMATS' values; without it, the name's ending says.
    """
    try:
        check(path, format or FORMATS.get(path.suffix.lower(), ""))
    except Wrong as err:
        return str(err)
    except OSError as err:
        return f"cannot be read ({err.strerror})"
    return ""


def is_other(path: Path, format: str) -> bool:
    """Whether the file is no file of the format and yet no broken one: somebody's own, under this name."""
    try:
        check(path, format)
    except Other:
        return True
    except (Wrong, OSError):
        pass
    return False


def require_whole(paths: Iterable[Path]) -> None:
    """Raises ValueError, naming the file and what to do, for the first that is damaged or none."""
    for path in paths:
        if reason := damage(path):
            raise ValueError(f"{path.name} cannot be loaded, because it {reason}. {AGAIN}")


def require_diffusion(paths: Iterable[Path]) -> None:
    """Raises ValueError unless each file is whole and stored in a way that can be decoded here."""
    for path in paths:
        require_whole([path])
        if FORMATS.get(path.suffix.lower()) == "safetensors" and (kind := foreign(safetensors_header(path))):
            raise ValueError(f"{path.name} cannot be loaded, because it {kind}. {ANOTHER}")


def require_complete(names: Iterable[str], file: str) -> None:
    """Raises ValueError where a network of Wan's kind lacks one of its blocks or of its two ends."""
    names = set(names)
    blocks: dict[str, set[int]] = {}
    for name in names:
        if block := WAN_BLOCK.fullmatch(name):
            blocks.setdefault(block["prefix"], set()).add(int(block["number"]))
    lacking = []
    for prefix, numbers in blocks.items():
        missing = [f"block {number}" for number in range(len(numbers)) if number not in numbers]
        missing += [f"'{end}'" for end in WAN_ENDS if prefix + end not in names]
        if not missing:
            return
        lacking += missing
    if lacking:
        raise ValueError(
            f"{file} is not a whole model: {lacking[0]} is not in it. It may be one part of several, or half converted. "
            f"{AGAIN}"
        )


def parts(path: Path) -> list[Path]:
    """The file, or all parts of the split file (name-00001-of-00003) that it is one of, in their order.

    Raises ValueError naming the parts that are not beside it.
    """
    split = SPLIT.fullmatch(path.name)
    if split is None:
        require_unsplit(path)
        return [path]
    stem, number, count, suffix = split.groups()
    names = [f"{stem}-{part:0{len(number)}}-of-{count}{suffix}" for part in range(1, int(count) + 1)]
    missing = [name for name in names if not path.with_name(name).exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{path.name} is one of {int(count)} parts of a split model, and {', '.join(missing[:3])}{more} "
            f"{'are' if len(missing) > 1 else 'is'} not beside it. Put all parts into {path.parent}."
        )
    return [path.with_name(name) for name in names]


def require_unsplit(path: Path) -> None:
    """Raises ValueError for a part of a split GGUF whose name does not say which part it is."""
    if path.suffix.lower() == ".gguf" and not damage(path):
        count = open_gguf(path).metadata.get("split.count", 1)
        if count != 1:
            raise ValueError(
                f"{path.name} is one of {count} parts of a split GGUF, and its name does not say which. Give the parts "
                "their names back (…-00001-of-00002.gguf), or merge them with llama.cpp's llama-gguf-split --merge."
            )


def quantiser(names: Iterable[str]) -> str:
    """Which quantiser wrote tensors of these names, in words that follow "it", where nothing here can decode them."""
    names = list(names)
    return next((words for end, words in FOREIGN if any(name.endswith(end) for name in names)), "")


def foreign(header: dict[str, dict]) -> str:
    """Why these tensors are none that can be loaded as a model here, in words that follow "it"; empty where they can."""
    metadata = header.get("__metadata__", {})
    if metadata.get("format") == "mlx":
        return "was written for Apple's MLX"
    if words := quantiser(header):
        return words
    names = [name for name in header if name != "__metadata__"]
    if names and all(re.search(r"\.lora_|\.alpha$|\.diff(_b)?$|\.dora_scale$|\.hada_|\.lokr_", name) for name in names):
        return "is a LoRA and not a model"
    if any(name.startswith("condition_embedder.time_embedder.") for name in names):
        return "has the names of diffusers' folder layout, which ComfyUI does not know for Wan"
    described = "_quantization_metadata" in metadata
    for name, entry in header.items():
        whole_numbers = entry.get("dtype") in ("I8", "U8") and len(entry.get("shape", ())) > 1
        if name.endswith(".weight") and whole_numbers and not described:
            if f"{name.removesuffix('weight')}comfy_quant" not in header:
                return f"has weights of 8 bits ('{name}') and does not say how they are to be read"
    return ""


def check(path: Path, format: str) -> None:
    """Raises Wrong where a file is damaged, Other where it is no file or not of `format`, which is empty if unknown."""
    if path.is_symlink() and not path.exists():
        raise Wrong("is a link that leads nowhere")
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise Other("is a folder and not a file")
    if not stat.S_ISREG(found.st_mode):
        raise Other("is not a regular file")
    if not found.st_size:
        raise Wrong("is empty")
    with open(path, "rb") as file:
        begin = file.read(64)
    kind = kind_of(begin, found.st_size)
    if kind == "zip":
        if not is_checkpoint(path):
            raise Other("is a ZIP archive: unpack it")
        kind = "pickle"
    if kind and format and kind != format:
        ending = {"safetensors": ".safetensors", "gguf": ".gguf", "pickle": ".pth"}[kind]
        raise Other(f"is another kind of file under this name: let it end in {ending}")
    if format == "safetensors":
        if reason := safetensors_damage(path):
            raise Wrong(reason)
    elif format == "gguf":
        check_gguf(path)
    elif format == "onnx":
        check_onnx(path)
    elif format == "pickle" and kind != "pickle":
        raise Wrong("is not a file of PyTorch")


def kind_of(begin: bytes, size: int) -> str:
    """The format that the first bytes of a file of `size` bytes say; empty where they say none. Raises Wrong for others."""
    if len(begin) > 8 and struct.unpack("<Q", begin[:8])[0] <= size - 8 and begin[8:9] == b"{":
        return "safetensors"
    if begin.startswith(b"GGUF"):
        return "gguf"
    if begin.startswith(b"PK\x03\x04"):
        return "zip"
    if begin.startswith((b"\x80\2", b"\x80\3", b"\x80\4")):
        return "pickle"
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in begin.removeprefix(b"\xef\xbb\xbf")[:8]):
        raise Wrong(next((words for starts, words in TEXTS if text.startswith(starts)), "is a text and not a model"))
    for start, name in ARCHIVES.items():
        if begin.startswith(start):
            raise Other(f"is a {name} archive: unpack it")
    if begin.startswith(PICTURES) or begin[4:8] == b"ftyp":
        raise Other("is a picture or a video and not a model")
    if not any(begin):
        raise Wrong("begins with nothing but zeros: its download did not end")
    return ""


def check_gguf(path: Path) -> None:
    """Raises Wrong where a GGUF is damaged. One that is only of an unknown kind passes: loading it says so."""
    try:
        open_gguf(path)
    except GGUFError as err:
        if err.damaged:
            why = err.why.removeprefix("it ")
            raise Wrong(why if why != err.why else f"is damaged: {why}") from err


def is_checkpoint(path: Path) -> bool:
    """Whether a ZIP archive is PyTorch's. Raises Wrong where it is cut short, or holds more than it has bytes for."""
    entries = zip_entries(path)
    if not any(entry.filename.endswith("data.pkl") and entry.filename.count("/") <= 1 for entry in entries):
        return False
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Other("is compressed, which PyTorch's own files never are")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise Wrong("claims to hold more than it has bytes for")
    return True


def zip_entries(path: Path) -> list[zipfile.ZipInfo]:
    """The directory of a ZIP archive. Raises Wrong where there is none, or none that such a file would have."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - (1 << 16) - 128))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + 22 > len(tail):
        raise Wrong("is cut short")
    (directory,) = struct.unpack_from("<I", tail, at + 12)
    large = tail.rfind(b"PK\6\6", 0, at)
    if directory == 0xFFFFFFFF and 0 <= large <= len(tail) - 56:
        (directory,) = struct.unpack_from("<Q", tail, large + 40)
    if directory > min(size, LARGEST_DIRECTORY):
        raise Wrong("has a directory that is too long for what it lists")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, UnicodeDecodeError) as err:
        raise Wrong("is cut short or damaged") from err


def check_onnx(path: Path) -> None:
    """Walks the fields of the outermost protobuf message, without what is in them."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        for _ in range(LARGEST_MESSAGE):
            at = file.tell()
            if at == size:
                return
            head = file.read(20)
            try:
                key, used = varint(head, 0)
                length = {1: 8, 5: 4}.get(key & 7, 0)
                if key & 7 in (0, 2):
                    number, used = varint(head, used)
                    length = number if key & 7 == 2 else 0
            except IndexError:
                raise Wrong("is cut short or not an ONNX file") from None
            if key & 7 not in (0, 1, 2, 5) or at + used + length > size:
                raise Wrong("is cut short or not an ONNX file")
            file.seek(at + used + length)
    raise Wrong("is not an ONNX file")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf number and where it ends. Raises IndexError where it does not end within its ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise IndexError
