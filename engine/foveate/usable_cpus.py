"""How many CPUs this process may use: in a container, fewer than the machine has."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["cpu_quota", "default_decoders", "default_threads", "usable_cpus"]

_MOST_DECODERS = 32  # processes of some hundred megabytes each

_QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # cgroup v2, v1


def usable_cpus(process: Path = Path("/proc/self")) -> int:
    """CPUs of the affinity mask, but no more than the cgroup quota allows; at least one."""
    return max(1, int(min(len(os.sched_getaffinity(0)), cpu_quota(process))))


def default_threads(cpus: int) -> int:
    """Threads of a model process: one of every eight CPUs, at least one, is left to Triton's front
    end and the decoders.
    """
    return max(1, cpus - max(1, cpus // 8))


def default_decoders(cpus: int, *, on_gpu: bool) -> int:
    """Processes that decode files for one model: what the model leaves, at least one.

    On a CPU that is what :func:`default_threads` leaves: more would take from the model. A model on
    a GPU needs one CPU for its process and one for Triton's front end.
    """
    left = cpus - 2 if on_gpu else cpus - default_threads(cpus)
    return min(max(1, left), _MOST_DECODERS)


def cpu_quota(process: Path = Path("/proc/self")) -> float:
    """CPUs' worth of time that the cgroups of a process grant, each as much as those above it let
    it; infinite if none has a quota.
    """
    return min(map(_quota, _groups(process)), default=math.inf)


def _groups(process: Path) -> Iterator[Path]:
    """Folders of the process's group and of those above it, as far as they are mounted."""
    try:
        memberships = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:  # a kernel without cgroups
        return
    ours = {}
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            ours["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in mounts:
        where, _, what = line.partition(" - ")
        _, _, _, root, mount, *_ = where.split()
        kind, *_, options = what.split()
        if kind in ours and (kind == "cgroup2" or "cpu" in options.split(",")):
            # A container may see its own group only, or be told a path outside of what it sees.
            seen = ours[kind].is_relative_to(root)
            inside = ours[kind].relative_to(root) if seen else PurePosixPath()
            yield from (Path(mount, part) for part in (inside, *inside.parents))


def _quota(group: Path) -> float:
    for names in _QUOTA_FILES:
        # No such file: another version, or no limit at the top; "max" is no number.
        with contextlib.suppress(OSError, ValueError):
            quota, period = (
                int(text) for name in names for text in (group / name).read_text().split()
            )
            if quota > 0:  # -1: unlimited
                return quota / period
    return math.inf
