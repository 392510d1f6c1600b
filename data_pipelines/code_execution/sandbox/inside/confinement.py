"""What a process gives up: user id, capabilities, resources. Each works on every Linux."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

_NO_NEW_PRIVILEGES, _DROP_BOUNDING, _DUMPABLE = 38, 24, 4
_CAPABILITY_VERSION = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)


def give_up_privileges() -> None:
    """Drop every capability, also those that a program run later would gain. Does nothing to an ordinary user's process."""
    number = 0
    while _libc.prctl(_DROP_BOUNDING, number, 0, 0, 0) == 0:  # ends with EPERM for an ordinary user, EINVAL after the last one
        number += 1
    header, none = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _libc.syscall(_CAPSET[os.uname().machine], header, none)
    _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(what, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def hide() -> None:
    """Let no process of the same user look into this one's memory or descriptors."""
    _libc.prctl(_DUMPABLE, 0, 0, 0, 0)


def limit(seconds: float, memory: int, file: int, files: int) -> None:
    """Bound what the calling process may use, for good.

    Args:
        seconds: of CPU time, rounded up.
        memory: bytes of address space.
        file: bytes of a file.
        files: open at once.
    """
    whole = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
