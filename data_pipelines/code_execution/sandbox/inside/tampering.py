"""What other processes of the same user may change of a process from outside, and its children inherit: limits, priority, cores.

Where no filter keeps programs from such calls, a program could spoil those after it; so this is looked at after each one.
"""

from __future__ import annotations

import os
from typing import Any


class Watch:
    """Whether the settings of a few processes are still those of the beginning."""

    def __init__(self, *pids: int) -> None:
        """Args: process ids of processes of the same user."""
        self._limits = [os.open(f"/proc/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC) for pid in pids]
        self._pids = pids
        self._before = self._settings()

    def finds_changes(self) -> bool:
        """Whether the settings of one are others now, or it is gone."""
        try:
            return self._settings() != self._before
        except OSError:
            return True

    def _settings(self) -> list[tuple[Any, ...]]:
        return [
            (os.pread(limits, 8192, 0), os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid), os.sched_getscheduler(pid))
            for pid, limits in zip(self._pids, self._limits, strict=True)
        ]
