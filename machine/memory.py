"""How much RAM there is, and how much of it is left, also inside a container.

A rented machine's container may hold far less than the machine, and the process is killed at its limit.
"""

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
FILES = (
    ("", "memory.max", "memory.current"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
)


def total_ram(cgroups: Path = CGROUPS) -> int:
    """Bytes that the machine has or, if that is less, its container."""
    return min([psutil.virtual_memory().total, *(number(cgroups / folder / limit) for folder, limit, _ in FILES)])


def free_ram(cgroups: Path = CGROUPS) -> int:
    """Bytes that this process may still take. Files that Linux caches for the container count as free, as for the machine."""
    free = psutil.virtual_memory().available
    for folder, limit, used in FILES:
        left = number(cgroups / folder / limit) - number(cgroups / folder / used, 0) + cached(cgroups / folder)
        free = min(free, left)
    return max(free, 0)


def number(file: Path, otherwise: int = 1 << 62) -> int:
    """The bytes in a file of a cgroup; `otherwise` where there is no such file, or "max", which is no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return otherwise


def cached(cgroup: Path) -> int:
    """Bytes of files that Linux keeps for a cgroup and gives up when asked; version 1 counts its children under total_."""
    try:
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return sum(int(stat.get(f"total_{name}", stat[name])) for name in ("active_file", "inactive_file"))
    except (OSError, ValueError, KeyError):
        return 0
