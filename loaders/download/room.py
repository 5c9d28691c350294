"""The room on a disk that a download may take: not the last of it."""

import contextlib
import os
import shutil
from pathlib import Path

from .errors import NoRoom

RESERVE = 10**9  # bytes that stay free: the run that follows writes its video, the journal of uploads and the log


def reserve(total: int) -> int:
    """Bytes that a download leaves free on a disk of `total` bytes: 1 GB, or 2 % of a small one."""
    return min(RESERVE, total // 50)


def usage(path: Path) -> "shutil._ntuple_diskusage":
    """Total, used and free bytes of the disk that `path` is on or will be on."""
    return shutil.disk_usage(nearest(path))


def nearest(path: Path) -> Path:
    """The nearest folder above `path` that is there. Raises FileNotFoundError where none is: a drive that is missing."""
    for folder in path.absolute().parents:
        if folder.exists():
            return folder
    raise FileNotFoundError(f"There is no drive {path.absolute().anchor}. Connect it, or choose another folder.")


def taken(path: Path) -> int:
    """Bytes that a file has of its disk: not its holes, where files can have them."""
    try:
        stat = path.stat()
    except OSError:
        return 0
    return stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size


def check(sizes: dict[Path, int], what: str) -> None:
    """Raises NoRoom, before a byte is fetched, where files do not fit onto their disks with the reserve left free.

    `sizes`: bytes of each file by its path; what an earlier run left of it counts. `what`: the files, for the sentence.
    """
    with contextlib.suppress(OSError):  # a disk that cannot be asked is tried
        check_disks(sizes, what)


def check_disks(sizes: dict[Path, int], what: str) -> None:
    """Raises NoRoom where what is missing of files (path → bytes) does not fit on their disks beside the reserve."""
    disks: dict[int, dict[Path, int]] = {}
    for path, size in sizes.items():
        folder = nearest(path)
        more = size - taken(path.with_name(path.name + ".part"))
        disks.setdefault(os.stat(folder).st_dev, {})[path] = max(0, more)
    for files in disks.values():
        needed, path = sum(files.values()), next(iter(files))
        found = usage(path)
        kept = reserve(found.total)
        if needed and found.total and needed + kept > found.free:  # some network volumes tell no size
            raise NoRoom(
                f"Not enough disk space for {what}: it needs {needed / 1e9:.1f} GB more, {found.free / 1e9:.1f} GB are "
                f"free in {path.parent}. Free some space, or choose a smaller variant. "
                f"{kept / 1e9:.1f} GB are left free for the run itself."
            )
