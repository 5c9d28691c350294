"""Names of files in model folders, read once and looked up by pattern."""

import fnmatch
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

# A folder that changed so shortly before it was listed may change again without another time: in a tick of the clock, or in
# the two seconds of file systems that count no parts of seconds.
TICK, COARSE = 0.05, 2.0


class Names:
    """Paths relative to a folder, in order; `find` is quick however many there are."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.by_name: dict[str, list[str]] = {}
        for path in sorted(paths):
            self.by_name.setdefault(os.path.normcase(os.path.basename(path)), []).append(path)

    def find(self, pattern: str) -> list[str]:
        """The paths that `PurePath.match` says the pattern matches: a name, or the end of a path, `*` in it or not."""
        last = os.path.normcase(PurePath(pattern).name)
        names = fnmatch.filter(self.by_name, last) if set("*?[") & set(last) else {last} & self.by_name.keys()
        return [path for name in names for path in self.by_name[name] if PurePath(path).match(pattern)]


@dataclass(frozen=True)
class Listing:
    """What a folder held, and the modification times of it and of the folders in it: adding or removing a file changes one."""

    names: Names
    times: dict[str, int | None]
    steady: bool

    def holds(self) -> bool:
        """Whether nothing was added or taken away since."""
        return self.steady and all(modified(folder) == time for folder, time in self.times.items())


listings: dict[Path, Listing] = {}
reading = threading.Lock()


def names_below(root: Path) -> Names:
    """Every file in a folder and its subfolders, linked ones too, as ComfyUI looks: walked only when something changed."""
    with reading:
        known = listings.get(root)
        if known is None or not known.holds():
            known = listings[root] = listed(root)
        return known.names


def listed(root: Path) -> Listing:
    """What is in a folder and below now, links followed."""
    now = time.time_ns()
    paths, times = [], {str(root): modified(root)}
    for folder, _, names in os.walk(root, followlinks=True):
        times[folder] = modified(folder)
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return Listing(Names(paths), times, all(settled(time, now) for time in times.values()))


def settled(time: int | None, now: int) -> bool:
    """Whether a change of the folder from now on will show in its modification time."""
    if time is None:  # no such folder
        return True
    return now - time > 1e9 * (TICK if time % 1_000_000_000 else COARSE)


def modified(folder: str | Path) -> int | None:
    """When a folder was last changed, in nanoseconds; None where it is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None
