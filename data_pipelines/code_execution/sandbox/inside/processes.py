"""`multiprocessing` for a program that may not start processes: its locks work among threads, and starting a process ends the program.

The C library's own locks need a shared folder (/dev/shm) that programs do not have.
"""

from __future__ import annotations

import threading
import types
from typing import Any

from .stopping import stop

_MOST = 2**31 - 1


class SemLock:
    """A semaphore, or a lock that its owner may take again, as `_multiprocessing` has it. Interface: multiprocessing/synchronize.py."""

    SEM_VALUE_MAX = _MOST

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        """Args: 0: a lock that its owner may take again, 1: a semaphore; its value, the greatest value, a name; whether that goes."""
        self.kind, self.maxvalue, self.handle = kind, maxvalue, id(self)
        self.name = None if unlink else name
        self._value, self._owner, self._count_of_owner = value, 0, 0
        self._changed = threading.Condition(threading.Lock())

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; returns whether that was possible."""
        with self._changed:
            if self.kind == 0 and self._is_mine():
                self._count_of_owner += 1
                return True
            if not self._changed.wait_for(lambda: self._value > 0, timeout if block else 0):
                return False
            self._value -= 1
            self._owner, self._count_of_owner = threading.get_ident(), self._count_of_owner + 1
            return True

    def release(self) -> None:
        """Give it back."""
        with self._changed:
            if self.kind == 0 and not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self.kind == 1 and self._value >= self.maxvalue:
                raise ValueError("semaphore or lock released too many times")
            self._count_of_owner -= 1
            if self.kind == 1 or self._count_of_owner == 0:
                self._value += 1
                self._changed.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: Any) -> None:
        self.release()

    def _is_mine(self) -> bool:
        return self._count_of_owner > 0 and self._owner == threading.get_ident()

    def _count(self) -> int:
        return self._count_of_owner

    def _get_value(self) -> int:
        return self._value

    def _is_zero(self) -> bool:
        return self._value == 0

    def _after_fork(self) -> None:
        """Nothing: no process is forked."""


class _Popen:
    """Stands for every way in which `multiprocessing` starts a process."""

    def __init__(self, process: Any) -> None:
        stop("fork")


def modules() -> dict[str, types.ModuleType]:
    """Modules to be found under these names before those of the standard library."""
    locks, starting = types.ModuleType("_multiprocessing"), types.ModuleType("multiprocessing.popen_fork")
    vars(locks).update(SemLock=SemLock, sem_unlink=lambda name: None, flags={})
    vars(starting).update(Popen=_Popen)
    return {locks.__name__: locks, starting.__name__: starting}
