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
# Windows, with any ending.
RESERVED = re.compile(r"^(con|conin\$|conout\$|nul|aux|prn|(?:com|lpt)[1-9¹²³])(?= *(\.|$))", re.IGNORECASE)


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

    key = clean(re.sub(r"\{([^{}]*)\}", value, template))
    prefix = clean(f"{values.get('prefix', '')}/x")[:-1]
    return key if key.startswith(prefix) else clean(prefix + key)


def clean(key: str, longest: int = MAX_SEGMENT) -> str:
    """The key made safe; see `fill`. No part gets longer than `longest` bytes.

    Raises ValueError when nothing is left or it is nested too deep.
    """
    segments = [_clean_segment(segment) for segment in re.split(r"[\\/]", unicodedata.normalize("NFC", key))]
    segments = [segment for segment in segments if segment]
    if not segments or len(segments) > MAX_DEPTH:
        raise ValueError(
            f"The key must have 1 to {MAX_DEPTH} parts, this one has {len(segments)}. Change its template."
        )
    room = min(longest, MAX_KEY // len(segments) - 1)
    return "/".join(_shorten(segment, room) for segment in segments)


def file_times(modified: float) -> dict[str, str]:
    """The tokens `date` and `time` of a file, local time: its own, so that a retry a day later keeps the key."""
    moment = time.localtime(modified)
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
    folder, _, name = key.rpartition("/")
    path = PurePosixPath(_shorten(name, MAX_SEGMENT - len("-999")))
    for number in range(2, 1000):
        yield clean(f"{folder}/{path.stem}-{number}{path.suffix}")


def _clean_segment(segment: str) -> str:
    kept = "".join(char for char in segment if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    kept = re.sub(r'[<>:"|?*]', "_", kept).strip(" ")
    return RESERVED.sub(r"\1_", kept.rstrip(". ")) if kept.strip(". ") else ""


def _shorten(segment: str, room: int) -> str:
    """At most `room` bytes of UTF-8, keeping a file's ending."""
    if len(segment.encode()) <= room:
        return segment
    stem, dot, ending = segment.rpartition(".")
    ending = dot + ending if stem and len(ending.encode()) <= 8 else ""
    stem = segment[: len(segment) - len(ending)]
    return stem.encode()[: room - len(ending.encode())].decode(errors="ignore") + ending
