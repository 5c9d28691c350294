"""What is in a file, read once before it is sent: the measure for everything that is skipped, verified or deleted."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Content:
    """A file's size and hashes, as they were when it was read."""

    size: int  # bytes
    sha256: str
    etag: str  # what AWS, R2 and most others call an object of these bytes


def read(path: Path, part: int = 0, poll: Callable[[], object] = lambda: None) -> Content:
    """Reads the whole file, which will be sent in parts of `part` bytes, or in one request where that is 0.

    `poll()` is called after each MiB; what it raises ends the reading. Raises OSError.
    """
    whole, parts, size = hashlib.sha256(), [_md5()], 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            poll()
            whole.update(block)
            while block:
                if size and size % (part or sys.maxsize) == 0:
                    parts.append(_md5())
                fits = block[: part - size % part] if part else block
                parts[-1].update(fits)
                size, block = size + len(fits), block[len(fits) :]
    etag = parts[0].hexdigest()
    if part:
        etag = f"{_md5(b''.join(digest.digest() for digest in parts)).hexdigest()}-{len(parts)}"
    return Content(size, whole.hexdigest(), etag)


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)
