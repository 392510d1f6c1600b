"""A view of the machine with nothing on it: own users, processes, network, and a file system of a few read-only folders.

What bubblewrap does where it is installed (see ../isolation.py), done by ourselves where it is not: user_namespaces(7),
mount_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Sequence

_NEW = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000  # user mount pid net ipc uts cgroup
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE, _DETACH = 1, 2, 4, 32, 4096, 16384, 1 << 18, 2
_NO_EXECUTION, _NO_ACCESS_TIMES = 8, 1024 | 2048
_PARENT_DEATH = 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


def enter(readable: Sequence[str], writable: str, bytes_writable: int, program: tuple[str, str]) -> None:
    """Move the calling process into namespaces of its own.

    Returns in a child that is their first process; the caller waits and ends with it.

    Args:
        readable: files and folders of the host that stay, read-only, where they are.
        writable: an empty folder to make, in memory.
        bytes_writable: how much fits in there.
        program: (a folder of the host, where it is to be seen).

    Raises:
        OSError: the machine does not let ordinary users make namespaces.
    """
    user, group = os.getuid(), os.getgid()
    _checked(_libc.unshare(_NEW), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{NOBODY} {user} 1")
    _write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    _see_only(readable, writable, bytes_writable, program)
    child = os.fork()
    if child == 0:
        _libc.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
        return
    os.closerange(0, 65536)
    _, status = os.waitpid(child, 0)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _see_only(readable: Sequence[str], writable: str, bytes_writable: int, program: tuple[str, str]) -> None:
    """Swap the root for an empty one in memory with these paths bound into it, and forget the old one."""
    _mount("", "/", "", _RECURSIVE | _PRIVATE)
    bound = [(path, path) for path in readable if os.path.exists(path)] + [program]
    root = _to_mount_on([source for source, _ in bound])
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")
    for source, target in bound:
        _bind(source, root + target)
    os.makedirs(root + writable, exist_ok=True)
    _mount("tmpfs", root + writable, "tmpfs", _NO_SUID | _NO_DEVICES, f"size={bytes_writable},nr_inodes=10000,mode=755")
    os.makedirs(root + "/.old", exist_ok=True)
    _checked(_libc.syscall(_PIVOT_ROOT[os.uname().machine], root.encode(), (root + "/.old").encode()), "pivot_root")
    os.chdir("/")
    _checked(_libc.umount2(b"/.old", _DETACH), "umount")
    os.rmdir("/.old")
    _mount("", "/", "", _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)


def _to_mount_on(needed: Sequence[str]) -> str:
    """A folder of the host to mount the new root on, in which none of the paths lies that are needed: they would be covered."""
    real = [os.path.realpath(path) for path in needed]
    for folder in ("/tmp", "/mnt", "/media", "/srv", "/var/tmp", "/opt"):
        if os.path.isdir(folder) and not any(path == folder or path.startswith(folder + "/") for path in (*needed, *real)):
            return folder
    raise OSError(errno.ENOENT, "there is no folder to mount the new root on")


def _bind(source: str, target: str) -> None:
    if os.path.islink(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    _mount(source, target, "", _BIND | _RECURSIVE)
    if not source.startswith("/dev/"):
        _remount_read_only(target)


def _remount_read_only(target: str) -> None:
    kept = os.statvfs(target).f_flag & (_NO_SUID | _NO_DEVICES | _NO_EXECUTION | _NO_ACCESS_TIMES)  # the outer mount locks what it has set
    _mount("", target, "", _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | kept)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _checked(
        _libc.mount(source.encode() or None, target.encode(), kind.encode() or None, flags, options.encode() or None), f"mount {target}"
    )


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
