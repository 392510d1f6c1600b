"""Where root starts processes without namespaces, each gets a user id that nobody else has: it can signal, trace and read nobody.

The interpreter may lie where only root gets to (/root/.pyenv): it is reached through descriptors that are opened before the id is given up.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from data_pipelines.code_execution.sandbox.inside.leftovers import Belongings
from data_pipelines.code_execution.sandbox.inside.lifelines import MARK

_numbers = itertools.count()
_HIGHEST = 0x70000000
_FIRST = 20


def needed(level: str) -> bool:
    """Whether processes are to be given a user id of their own."""
    return level != "namespaces" and os.geteuid() == 0


def lone_user() -> int:
    """A user id of this machine, or of the container that this is, that nobody else has."""
    with open("/proc/self/uid_map") as ranges:
        first, _, count = (int(word) for word in ranges.read().splitlines()[-1].split())
    last = min(first + count - 2, _HIGHEST)
    return last - (os.getpid() * 64 + next(_numbers)) % 50_000 % max(1, last - 1000)


@dataclass
class Account:
    """What a process needs to be started under a user id of its own.

    Attributes:
        user: the id.
        python: how the interpreter is reached.
        home: how its standard library is reached.
        code: how the sandbox's own code is reached.
        descriptors: to be inherited.
    """

    user: int
    python: str
    home: str
    code: str
    descriptors: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, python: str, code: Path) -> Account:
        """Open the way to the interpreter and to a folder of code."""
        real = Path(os.path.realpath(python))
        handles = [_high(os.open(path, os.O_RDONLY)) for path in (real, real.parent.parent, code)]
        ways = [f"/proc/self/fd/{handle}" for handle in handles]
        return cls(lone_user(), ways[0], ways[1], ways[2], handles)

    def options(self) -> dict[str, Any]:
        """For subprocess.Popen."""
        return {"user": self.user, "group": self.user, "extra_groups": [], "executable": self.python}

    def close(self) -> None:
        """Close this side's descriptors, once the process has been started."""
        for handle in self.descriptors:
            os.close(handle)


def processes_now(account: Account | None) -> int:
    """How many processes and threads the user has under whom programs are to run."""
    if account is not None:
        return 0
    return sum(process.num_threads() for process in psutil.process_iter() if _is_ours(process))


def _is_ours(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.uids().real == os.getuid())
    return False


def _end_processes_of(user: int) -> None:
    """Kill whatever still runs under a user id of our own."""
    for _ in range(100):
        found = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit() and _owner(entry) == user]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)


def end_escaped() -> None:
    """Kill programs, of whatever pool of this user, that have outlived their supervisor and its keeper, where there is a keeper."""
    while escaped := list(_escaped()):
        for pid in escaped:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _escaped() -> Iterator[int]:
    parents = {process.pid: process.info["ppid"] for process in psutil.process_iter(["ppid", "status"]) if _runs(process)}
    marks = {pid: _mark(pid) for pid in parents}
    for pid, mark in marks.items():
        top = pid
        while marks.get(top, 0) < MARK and parents.get(top) in marks and marks[parents[top]] <= MARK:
            top = parents[top]
        if mark < MARK and marks[top] != MARK:  # neither a keeper nor below one
            yield pid


def _runs(process: psutil.Process) -> bool:
    return bool(process.info["status"] != psutil.STATUS_ZOMBIE)


def _mark(pid: int) -> int:
    """The mark of a process of this user: `MARK` for a keeper, less for what it keeps, more for every other process."""
    with contextlib.suppress(OSError):
        hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)[1]
        return hard if hard >= 0 else sys.maxsize
    return sys.maxsize


def _owner(entry: os.DirEntry[str]) -> int:
    with contextlib.suppress(OSError):
        return entry.stat().st_uid
    return -1


def end_all_of(user: int) -> None:
    """End and remove all that is left of a user id of our own."""
    _end_processes_of(user)
    Belongings(user).remove()


def _high(handle: int) -> int:
    """The same descriptor under a number that no process inside uses for something else."""
    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    os.close(handle)
    return moved
