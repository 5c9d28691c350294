"""Under which name an object is stored: a template with tokens, made safe for every system that will read it."""

import re
import time
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

TEMPLATE = "{prefix}/{date}/{name}"
FOLDER_TEMPLATE = "{prefix}/{date}/{folder}/{name}"  # for whole folders, where two files may share a name
TOKENS = ("prefix", "date", "time", "name", "stem", "ext", "folder", "counter", "seed", "prompt_id", "title")
MAX_KEY = 1024  # bytes, R2 and S3
MAX_SEGMENT = 255  # bytes, so that the object can be downloaded as a file
MAX_DEPTH = 32
LONGEST_PREFIX = MAX_KEY // 2
RESERVED = re.compile(  # by Windows, with any ending
    r"^(con|nul|aux|prn|conin\$|conout\$|com[1-9¹²³]|lpt[1-9¹²³])(?= *(\.|$))", re.IGNORECASE
)
UNWANTED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control and format characters, half surrogates, line breaks


def fill(template: str, values: Mapping[str, object]) -> str:
    """The key of a template such as `{prefix}/{date}/{name}`; a token without a value leaves its place empty.

    The key lies below `prefix` in any case: where the template does not begin with it, it is put in front.
    `prefix` and `folder` may hold slashes, in every other value they become underscores. The result is at most
    1024 bytes of NFC text without `..`, control characters or what Windows forbids in names.
    Raises ValueError for an unknown token or when nothing is left.
    """

    def value(match: re.Match) -> str:
        token = match[1]
        if token not in TOKENS:
            raise ValueError(f"The key template has an unknown token '{{{token}}}'. Known are: {', '.join(TOKENS)}.")
        text = str(values.get(token, ""))
        return text if token in ("prefix", "folder") else re.sub(r"[\\/]", "_", text)

    wanted = _segments(re.sub(r"\{([^{}]*)\}", value, template))
    prefix = _segments(str(values.get("prefix", "")))
    below = wanted[len(prefix) :] if wanted[: len(prefix)] == prefix else wanted
    below = below or wanted
    _check_depth([*prefix, *below] if below else [])
    if not prefix:
        return _join(below, MAX_SEGMENT, MAX_KEY)
    folder = _join(prefix, MAX_SEGMENT, LONGEST_PREFIX)
    return f"{folder}/{_join(below, MAX_SEGMENT, MAX_KEY - len(folder.encode()) - 1)}"


def clean(key: str, longest: int = MAX_SEGMENT) -> str:
    """The key made safe; see `fill`. No part gets longer than `longest` bytes.

    Raises ValueError when nothing is left or it is nested too deep.
    """
    segments = _segments(key)
    _check_depth(segments)
    return _join(segments, longest, MAX_KEY)


def lies_below(prefix: str, key: str) -> bool:
    """Whether a key that was written down once is one that we make, and below the prefix."""
    segments, first = _segments(key), _segments(prefix)
    first = _join(first, MAX_SEGMENT, LONGEST_PREFIX).split("/") if first else []
    return "/".join(segments) == key and len(key.encode()) <= MAX_KEY and segments[: len(first)] == first != segments


def file_times(modified: float) -> dict[str, str]:
    """The tokens `date` and `time` of a file, local time: its own, so that a retry a day later keeps the key."""
    try:
        moment = time.localtime(modified)
    except (OverflowError, OSError, ValueError):  # a time that no calendar has
        moment = time.localtime(0)
    return {"date": time.strftime("%Y-%m-%d", moment), "time": time.strftime("%H%M%S", moment)}


def file_names(name: str, folder: str = "") -> dict[str, str]:
    """The tokens of a file's name; `counter` is the number that ComfyUI put behind it (`clip_00007_.mp4`)."""
    path = PurePosixPath(name)
    counter = re.search(r"_(\d+)_?$", path.stem)
    return {
        "name": name,
        "stem": path.stem,
        "ext": path.suffix.lstrip("."),
        "folder": folder,
        "counter": counter[1] if counter else "",
    }


def alternatives(key: str) -> Iterator[str]:
    """The key itself, then key-2, key-3 …: what is tried when a name is taken and must not be overwritten."""
    yield key
    folder, slash, name = key.rpartition("/")
    room = min(MAX_SEGMENT, MAX_KEY - len((folder + slash).encode())) - len("-999")
    path = PurePosixPath(_shorten(name, room))
    for number in range(2, 1000):
        yield f"{folder}{slash}{path.stem}-{number}{path.suffix}"


def _segments(key: str) -> list[str]:
    """The parts of a key, each made safe, however long."""
    segments = [_clean_segment(segment) for segment in re.split(r"[\\/]", unicodedata.normalize("NFC", key))]
    return [segment for segment in segments if segment]


def _check_depth(segments: list[str]) -> None:
    if not segments or len(segments) > MAX_DEPTH:
        raise ValueError(
            f"The key must have 1 to {MAX_DEPTH} parts, this one has {len(segments)}. Change its template."
        )


def _join(segments: list[str], longest: int, room: int) -> str:
    """The parts as a key of at most `room` bytes."""
    return "/".join(_shorten(segment, min(longest, room // len(segments) - 1)) for segment in segments)


def _clean_segment(segment: str) -> str:
    kept = "".join(char for char in segment if unicodedata.category(char) not in UNWANTED and not _nonsense(char))
    kept = re.sub(r'[<>:"|?*]', "_", kept).strip(" ")
    return RESERVED.sub(r"\1_", kept.rstrip(". ")) if kept.strip(". ") else ""


def _nonsense(char: str) -> bool:
    """Whether it is a code that Unicode will never use; a listing of the bucket with it is no valid XML."""
    return ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF


def _shorten(segment: str, room: int) -> str:
    """At most `room` bytes of UTF-8, keeping a file's ending."""
    if len(segment.encode()) <= room:
        return segment
    stem, dot, ending = segment.rpartition(".")
    ending = dot + ending if stem and len(ending.encode()) <= 8 else ""
    stem = segment[: len(segment) - len(ending)]
    return stem.encode()[: room - len(ending.encode())].decode(errors="ignore") + ending
