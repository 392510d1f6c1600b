"""Processes that end with one another: whichever of a unit's processes is killed or stopped, none of the others stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

_PARENT_DEATH, _SUBREAPER = 1, 36
MARK = 10**12  # a hard limit of RLIMIT_RTTIME that no other process has: it can be lowered and never raised, and its children inherit it
_PATIENCE = 5.0  # seconds until a process that does not go away after SIGKILL is given up: it waits in the kernel
_LAST_WORDS = 2.0  # seconds for a supervisor to clean up by itself, once the pool is gone

_libc = ctypes.CDLL(None, use_errno=True)


class ParentGoneError(BaseException):
    """The process that this one belongs to has ended. No Exception, so that no handler of system errors takes it for one of those."""


def die_with(parent: int) -> None:
    """Have the kernel kill the calling process as soon as its parent ends, even where it is stopped.

    Args:
        parent: the parent's process id. If that is no longer the parent, the process ends at once.
    """
    _libc.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
    if signal.getsignal(signal.SIGCONT) is not signal.SIG_DFL:  # of a parent that notices the end of its own
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
    if os.getppid() != parent:
        os._exit(1)


def notice_the_end_of(parent: int) -> None:
    """Raise `ParentGoneError` in the calling process as soon as its parent ends, for a process that has to clean up first.

    The kernel's signal is SIGCONT, which also wakes a process that is stopped.

    Args:
        parent: the parent's process id.
    """

    def look(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            raise ParentGoneError

    signal.signal(signal.SIGCONT, look)
    _libc.prctl(_PARENT_DEATH, signal.SIGCONT, 0, 0, 0)
    look(0, None)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that none gets away."""
    _libc.prctl(_SUBREAPER, 1, 0, 0, 0)


def keep(pool: int, hide: Callable[[], None]) -> None:
    """Put a keeper between the pool and the calling process: whatever programs leave is ended also if the calling process is killed.

    Needed only where no namespace and no filter keeps programs from starting processes. Returns in a child; the calling process becomes
    the keeper. It wakes its child when that is stopped, and ends with it. Both are marked, so that the pool finds what has escaped from
    both (see ../accounts.py).

    Args:
        pool: the process id of the parent.
        hide: called by the keeper, which programs are not to look into.
    """
    keeper = os.getpid()
    _mark(MARK)
    child = os.fork()
    if child == 0:
        _mark(MARK - 1)
        return notice_the_end_of(keeper)
    hide()
    adopt_orphans()
    os.closerange(0, 65536)
    status = 0
    try:
        notice_the_end_of(pool)
        while (ended := os.waitpid(-1, os.WUNTRACED))[0] != child or os.WIFSTOPPED(ended[1]):
            if os.WIFSTOPPED(ended[1]):
                os.kill(child, signal.SIGCONT)
        status = ended[1]
    except ParentGoneError:
        _wait_for(child, _LAST_WORDS)
    end_descendants()
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _mark(limit: int) -> None:
    with contextlib.suppress(ValueError):  # this machine has a lower one
        resource.setrlimit(resource.RLIMIT_RTTIME, (limit, limit))


def _wait_for(child: int, seconds: float) -> None:
    """Wait until a child has ended, at most so long."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGCONT)
            time.sleep(0.01)


def end_descendants(spared: int = 0) -> None:
    """End every process below the calling one, and wait until they are gone.

    Args:
        spared: the one child that stays.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        remaining = [pid for pid in descendants(os.getpid()) if pid != spared and not _has_ended(pid)]
        if not remaining:
            return
        for pid in remaining:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in remaining:
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)


def descendants(pid: int) -> Iterator[int]:
    """Process ids of every process below one."""
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children") as file:
                    children = [int(word) for word in file.read().split()]
                waiting += children
                yield from children


def _has_ended(pid: int) -> bool:
    """Whether a process has ended and waits for its parent to notice; true also where there is none. Reaps it if it is a child."""
    with contextlib.suppress(OSError):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"ZX"
    except OSError:
        return True
