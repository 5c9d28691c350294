"""How much RAM there is left, also inside a container."""

from pathlib import Path

import psutil


def free_ram(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: what the machine has free or, if that is less, its container.

    A rented machine's container may hold far less than the machine, and the process is killed at its limit. Files that
    Linux caches for the container count as free, as they do for the machine.
    """
    free = psutil.virtual_memory().available
    for folder, limit, used in (
        (cgroups, "memory.max", "memory.current"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
    ):
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = sum(int(stat.get(f"total_{name}", stat[name])) for name in ("active_file", "inactive_file"))
            free = min(free, int((folder / limit).read_text()) - int((folder / used).read_text()) + cached)
        except (OSError, ValueError, KeyError):  # no container of this kind, or "max": no limit
            continue
    return max(free, 0)
