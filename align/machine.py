"""What this process may use of the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """How many CPUs this process may use, at least 1: those that it may run on, and no more than its control groups' quota, rounded down.

    Args:
        root: where the file system begins.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each control group above this process allows, version 1 and 2 (Linux, admin-guide/cgroup-v2 and scheduler/sched-bwc)."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                yield from _limits(root / "sys/fs/cgroup", path, _quota_2)
                yield from _limits(root / "sys/fs/cgroup/unified", path, _quota_2)
            elif "cpu" in controllers.split(","):
                for mounted in {controllers, "cpu"}:
                    yield from _limits(root / "sys/fs/cgroup" / mounted, path, _quota_1)


def _limits(mounted: Path, path: str, read: Callable[[Path], float]) -> Iterator[float]:
    """The quotas of a group and of those above it. In a container the group's path may be missing: the mount then begins at the group."""
    folder = mounted / path.lstrip("/")
    while True:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota = read(folder)
            if quota > 0:
                yield quota
        if folder == mounted or mounted not in folder.parents:
            return
        folder = folder.parent


def _quota_1(folder: Path) -> float:
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())


def _quota_2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)
