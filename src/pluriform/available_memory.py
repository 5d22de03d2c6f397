"""How much memory a computation could take, and how often the system has ended processes for lack of it.

Inside a container the limit of its control group counts, which the figures of the machine do not show.

References:
    The Linux kernel documentation, Control Group v2 (memory.max, memory.current, memory.stat), proc (vmstat).
"""

import math
import re
from pathlib import Path

__all__ = ["available_memory", "memory_kills"]

GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder of a group, its files of limit and use, and what of the use can be had back at once; versions 2 and 1."""
STATISTICS = Path("/proc/vmstat")


def available_memory() -> float:
    """Bytes that can be had without pushing other memory out: of the machine, or of the control group if that is less.

    Example:
        >>> available_memory() > 2**20
        True
    """
    import psutil

    return min(float(psutil.virtual_memory().available), _room_of_group())


def memory_kills() -> int:
    """Processes that the system has ended since it was started because memory ran out; 0 where it does not tell."""
    return _number_of(STATISTICS, "oom_kill")


def _room_of_group() -> float:
    for folder, limit, use, kept in GROUPS:
        try:
            most, used = (int(Path(folder, name).read_text()) for name in (limit, use))
        except (OSError, ValueError):  # No such group, or "max".
            continue
        return float(max(0, most - used + _number_of(Path(folder, "memory.stat"), kept)))
    return math.inf


def _number_of(path: Path, name: str) -> int:
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
