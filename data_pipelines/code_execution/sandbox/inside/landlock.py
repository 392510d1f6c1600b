"""Landlock: what a process and its children may open, whatever their user id says. Needs no privilege; Linux 5.13 and later."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
NEWEST = 6  # with rules that are used here
TRUNCATES = 3  # from this version on, emptying a file is a right of its own; before, whoever owns a file can empty it
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_FILES = (1 << 13) - 1
_MAKE_FILES = (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10) | (1 << 12)  # folders, files, sockets, pipes, links
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract UNIX sockets, signals: only to processes under the same rules
_FILES_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def restrict(readable: Sequence[str], writable: Sequence[str], newest: int = NEWEST) -> int:
    """Leave the calling process, and all that it forks, these paths and what lies below them; no TCP, no signals to others.

    Args:
        readable: may be read and executed. Paths that do not exist are passed over.
        writable: everything may be done there.
        newest: the version to be used at most.

    Returns:
        The version that was applied.

    Raises:
        OSError: the kernel has no Landlock, or refused.
    """
    known = min(version(), newest)
    if known == 0:
        raise OSError(errno.ENOSYS, "Landlock is not there")
    handled = _ALL_FILES | (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0) | (_IOCTL_DEV if known >= 5 else 0)
    attributes = struct.pack("=QQQ", handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    attributes = attributes[: 8 if known < 4 else 16 if known < 6 else 24]
    _apply(attributes, [(path, _EXECUTE | _READ_FILE | _READ_DIR) for path in readable] + [(path, handled) for path in writable])
    return known


def make_no_file_below(folder: str, spared: str) -> None:
    """Forbid the calling process, and all that it forks, to make files in a folder of the root and below; nothing else changes.

    Args:
        folder: "/dev", say.
        spared: may lie below, and is not meant.

    Raises:
        OSError: the kernel has no Landlock, or one that would also forbid to move files from folder to folder.
    """
    if version() < 2:
        raise OSError(errno.ENOSYS, "Landlock 2 is not there")
    handled = _MAKE_FILES | _REFER
    others = [entry.path for entry in os.scandir("/") if entry.is_dir() and not os.path.samefile(entry.path, folder)]
    _apply(struct.pack("=Q", handled), [(path, handled) for path in (*others, spared)])


def _apply(attributes: bytes, allowed: Sequence[tuple[str, int]]) -> None:
    """Restrict the calling process to (path, what may be done there) of the rights that the attributes name."""
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0), "rules")
    for path, access in allowed:
        _allow(ruleset, path, access)
    _checked(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "restriction")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # what cannot be reached need not be allowed
        return
    if not os.path.isdir(path):
        access &= _FILES_ONLY
    rule = struct.pack("=Qi", access, handle)
    _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), path)
    os.close(handle)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock, {what}: {os.strerror(number)}")
    return int(result)
