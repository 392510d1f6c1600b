"""A seccomp filter for a program: what may be called, what ends the program, what is said not to exist.

Three answers: calls of `syscalls.allowed` run; those of `syscalls.forbidden` are held and told to the supervisor, which ends the
program and names the call in the verdict; all others fail with ENOSYS. The beginning and the end of a thread are held too, so that the
supervisor counts those there are.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import platform
import struct
from typing import NamedTuple

from .syscalls import AUDIT_ARCHITECTURE, allowed, by_arguments, emptying, forbidden, objects

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN, _AND = 0x20, 0x15, 0x35, 0x06, 0x54
_ALLOW, _NOTIFY, _ERROR, _KILL = 0x7FFF0000, 0x7FC00000, 0x00050000 | errno.ENOSYS, 0x80000000
_DENIED = 0x00050000 | errno.EACCES  # what Landlock says
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_NO_NEW_PRIVILEGES = 38
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls of a listener
_CONTINUE = 1
CLONE_THREAD = 0x10000
_SYSCALL_NUMBER = {"x86_64": 317, "aarch64": 277}
_TCGETS, _FIONREAD, _FIONBIO, _FIOCLEX, _FIONCLEX = 0x5401, 0x541B, 0x5421, 0x5451, 0x5450
_SETTING_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: would send signals to others
_NAMES = (15, 16)  # PR_SET_NAME, PR_GET_NAME
_PARENT_DEATH, _SIGKILL = 1, 9

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


class Filter:
    """A filter ready to be installed."""

    def __init__(self, keeps_files: bool = True) -> None:
        """Args: whether something else keeps files that may only be read from being emptied. Where nothing does, no call may do that
        by a file's name, but for opening it to write.

        Raises:
            OSError: there is no table for the machine's architecture here.
        """
        self._machine = platform.machine()
        if self._machine not in AUDIT_ARCHITECTURE:
            raise OSError(errno.ENOSYS, f"no table of system calls for {self._machine}")
        self._code = _assemble(self._machine, keeps_files)

    def install(self) -> int:
        """Filter the calling process and all that it forks, for good. Returns the listener on which held calls arrive.

        Raises:
            OSError: the kernel has no seccomp filters with notification, or forbids them.
        """
        return _install(self._code, self._machine, _NEW_LISTENER)


def make_no_objects() -> None:
    """Let the calling process, and all that it forks, make no shared memory, semaphores and queues of System V, for good.

    Raises:
        OSError: the kernel has no seccomp filters, or forbids them, or there is no table for the machine's architecture here.
    """
    machine = platform.machine()
    if machine not in AUDIT_ARCHITECTURE:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    code = _prologue(machine)
    for number in objects(machine).values():
        code += [_instruction(_JUMP_EQUAL, number, 0, 1), _instruction(_RETURN, _ERROR)]
    _install(b"".join([*code, _instruction(_RETURN, _ALLOW)]), machine, 0)


def _install(code: bytes, machine: str, flags: int) -> int:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    result = _libc.syscall(_SYSCALL_NUMBER[machine], _SET_MODE_FILTER, flags, ctypes.byref(program))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(result)


class Held(NamedTuple):
    """A call that the filter holds: its number at the listener, who makes it, its name, its first argument, whether it makes a thread."""

    number: int
    pid: int
    name: str
    argument: int
    thread: bool


_ONE_NAME = {"clone": "fork", "clone3": "fork", "vfork": "fork", "tgkill": "kill", "tkill": "kill"}


def held_call(listener: int) -> Held:
    """Take a held call from the listener.

    Raises:
        OSError: the caller is gone.
    """
    notice = bytearray(80)
    fcntl.ioctl(listener, _RECEIVE, notice)
    number, pid, _, call, _, _, argument = struct.unpack_from("=QIIiIQQ", notice)
    name = _names(platform.machine()).get(call, str(call))
    return Held(number, pid, _ONE_NAME.get(name, name), argument, name == "clone" and bool(argument & CLONE_THREAD))


@functools.cache
def _names(machine: str) -> dict[int, str]:
    return {number: name for name, number in (forbidden(machine) | by_arguments(machine)).items()}


def let_run(listener: int, held: Held) -> None:
    """Let a held call run after all."""
    fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", held.number, 0, 0, _CONTINUE))


def _assemble(machine: str, keeps_files: bool) -> bytes:
    """The filter's instructions."""
    answers = dict.fromkeys(allowed(machine).values(), _ALLOW)
    answers |= dict.fromkeys(forbidden(machine).values(), _NOTIFY)
    code = _prologue(machine)
    names = by_arguments(machine) | ({} if keeps_files else emptying(machine))
    for name, number in names.items():
        body = _by_arguments(name)
        code += [_instruction(_JUMP_EQUAL, number, 0, len(body)), *body]
    return b"".join([*code, *_tree(_ranges(answers))])


def _prologue(machine: str) -> list[bytes]:
    """Instructions that end a process whose call is of another architecture, and load the number of the call."""
    known = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_JUMP_EQUAL, AUDIT_ARCHITECTURE[machine], 1, 0)]
    return [*known, _instruction(_RETURN, _KILL), _instruction(_LOAD, _NUMBER)]


def _by_arguments(name: str) -> list[bytes]:
    """Instructions that end with an answer for one call."""

    def load(argument: int) -> bytes:
        return _instruction(_LOAD, _ARGUMENT + 8 * argument)  # the lower half, on little-endian machines

    def one_of(values: tuple[int, ...], then: int, otherwise: int) -> list[bytes]:
        tests = [_instruction(_JUMP_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
        return [*tests, _instruction(_RETURN, otherwise), _instruction(_RETURN, then)]

    if name in ("clone", "exit", "kill", "tgkill"):  # a thread or a process, a signal to itself or to others: the supervisor looks
        return [_instruction(_RETURN, _NOTIFY)]
    if name in ("open", "openat"):  # Landlock sees to it that a file is opened to write only where that is allowed, and not to the rest
        flags = [load(1 if name == "open" else 2), _instruction(_AND, os.O_TRUNC | os.O_ACCMODE)]
        return [*flags, *one_of((os.O_TRUNC | os.O_RDONLY, os.O_TRUNC | os.O_ACCMODE), _DENIED, _ALLOW)]
    if name == "truncate":
        return [_instruction(_RETURN, _DENIED)]
    if name == "ioctl":
        return [load(1), *one_of((_TCGETS, _FIONREAD, _FIONBIO, _FIOCLEX, _FIONCLEX), _ALLOW, _ERROR)]
    if name == "fcntl":
        return [load(1), *one_of(_SETTING_OWNERS, _NOTIFY, _ALLOW)]
    if name == "prctl":
        dies = [load(1), *one_of((_SIGKILL,), _ALLOW, _ERROR)]  # with its parent, which it may ask for and not take back
        return [load(0), _instruction(_JUMP_EQUAL, _PARENT_DEATH, 0, len(dies)), *dies, *one_of(_NAMES, _ALLOW, _ERROR)]
    if name == "prlimit64":
        return [load(0), *one_of((0,), _ALLOW, _ERROR)]
    if name == "socketpair":  # a pair of streams reaches nobody else; that of datagrams can send to any address
        stream = [load(1), _instruction(_AND, 0xF), *one_of((1,), _ALLOW, _NOTIFY)]
        return [load(0), _instruction(_JUMP_EQUAL, 1, 1, 0), _instruction(_RETURN, _NOTIFY), *stream]
    return [_instruction(_RETURN, _ERROR)]


def _ranges(answers: dict[int, int]) -> list[tuple[int, int]]:
    """(first number, answer) of every run of numbers with the same answer, in order."""
    found = [(0, answers.get(0, _ERROR))]
    for number in range(1, max(answers) + 2):
        if (answer := answers.get(number, _ERROR)) != found[-1][1]:
            found.append((number, answer))
    return found


def _tree(ranges: list[tuple[int, int]]) -> list[bytes]:
    """A binary search over the ranges: some seven comparisons a call instead of two hundred."""
    if len(ranges) == 1:
        return [_instruction(_RETURN, ranges[0][1])]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    return [_instruction(_JUMP_GREATER_EQUAL, ranges[middle][0], len(low), 0), *low, *high]
