"""How many processors this process may use, which in a container or a batch job are fewer than the machine has."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cpus(groups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Return the number of CPUs that the process's affinity and its control groups' quotas allow, at least 1.

    Args:
        groups: where the control groups are, of version 2 or 1.
        own: the file that names the groups of this process.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.floor(_quota(groups, own) + 1e-9)))


def _quota(groups: Path, own: Path) -> float:
    """Return the smallest quota, in CPUs, of this process's groups and of those around them."""
    lowest = float(2**20)
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        # Version 2 has one tree and names no controllers; in version 1 each controller has a tree of its own.
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (groups / controllers, groups / "cpu") if controllers else (groups,):
            place = root / path.lstrip("/")
            for folder in (place, *place.parents):
                lowest = min(lowest, _group_quota(folder))
                if folder == root:
                    break
    return lowest


def _group_quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
            )
        return int(quota) / int(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
