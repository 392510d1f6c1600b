"""What the tests may use while they judge one program: time and memory. What they compute with is what the program answered."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
from collections.abc import Iterator
from types import FrameType

from .orders import wall_seconds

_ALARM_AGAIN = 0.05  # seconds: tests may catch the first alarm
_GRACE = 0.25  # seconds after the program's own deadline, which is to strike first
_HARD_STOP = 2.0  # seconds of computing beyond that after which this process ends itself: one call into C that no alarm interrupts
_STEP = 32 << 20  # bytes: how exactly the memory in use is known
_PAGE, _PRIVATE_AND_ANONYMOUS = 4096, 0x22
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_at_least = _used = 0  # bytes of address space of this process: at the beginning, now


class TooSlowError(BaseException):
    """The tests themselves take too long with what the program answered.

    Attributes:
        idle: whether they took long without computing.
    """

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.idle = idle


_armed = False


def prepare() -> None:
    """Do once in the tester, when all is imported, what `bounded` needs."""
    global _at_least
    _at_least = _memory_in_use(resource.getrlimit(resource.RLIMIT_AS)[1])
    signal.signal(signal.SIGALRM, _alarm)
    signal.signal(signal.SIGVTALRM, _alarm)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


@contextlib.contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Let a block compute with what a program answered, and no longer and no larger than the program itself may be.

    Args:
        seconds: of CPU time that the program has.
        memory: bytes that the program has; these are for what the block makes, beyond what is there already.

    Raises:
        TooSlowError: the CPU time is over, or much more time has passed; again and again, should the block catch it. If that is to no
            avail, the process ends.
        MemoryError: the memory is used up.
    """
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (min(hard, _memory_in_use(hard) + memory), hard))
    try:
        with _alarm_at(seconds + _GRACE):
            yield
    finally:
        _disarm()  # once more: the alarm may have struck while it was being disarmed
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _memory_in_use(most: int) -> int:
    """Bytes of address space that this process has, at least and nearly; /proc, which would say so, is not there."""
    global _used
    while _used > _at_least and _fits(_used - _STEP, most):
        _used -= _STEP
    while _used < most and not _fits(_used, most):
        _used += _STEP
    return _used


def _fits(limit: int, most: int) -> bool:
    """Whether this process, and one page more, has no more address space than this."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    page = _libc.mmap(None, _PAGE, 0, _PRIVATE_AND_ANONYMOUS, -1, 0)
    return page != _FAILED and _libc.munmap(page, _PAGE) == 0


def _alarm(number: int, frame: FrameType | None) -> None:
    if _armed:
        raise TooSlowError(idle=number == signal.SIGALRM)


@contextlib.contextmanager
def _alarm_at(seconds: float) -> Iterator[None]:
    global _armed
    _armed = True
    signal.setitimer(signal.ITIMER_REAL, wall_seconds(seconds), _ALARM_AGAIN)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _ALARM_AGAIN)
    signal.setitimer(signal.ITIMER_PROF, seconds + _HARD_STOP)
    try:
        yield
    finally:
        _disarm()


def _disarm() -> None:
    global _armed
    _armed = False
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
