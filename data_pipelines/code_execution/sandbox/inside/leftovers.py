"""What a program leaves behind besides processes: files in folders, and objects of System V that outlive whoever made them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

_EVERYONES = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")
_DEEPEST = 256  # folders within folders that are counted; deeper ones count as too much
_REMOVE = 0  # IPC_RMID

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = (ctypes.c_int * 32)()


def written(folder: str, enough: int) -> int:
    """Bytes of the files in a folder and below; stops counting at `enough`."""
    total, folders = 0, [folder]
    deepest = folder.count("/") + _DEEPEST
    while folders and total <= enough:
        folder = folders.pop()
        if folder.count("/") > deepest:  # each look at what lies there takes the longer the deeper it lies
            return enough + 1
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                total += 4096  # a file's or a folder's own
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def empty(folder: str) -> None:
    """Remove all that lies in a folder, however deep and however protected.

    Raises:
        OSError: it is no longer there, or a link in its place: what that leads to is none of ours.
    """
    spare = 0
    if os.path.islink(folder):
        raise NotADirectoryError(folder)
    _open_up(folder)
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            _open_up(entry.path)
            for inner in list(os.scandir(entry.path)):  # folders within move up, so that no path ever gets long
                if inner.is_dir(follow_symlinks=False):
                    _open_up(inner.path)
                    spare += 1
                    os.rename(inner.path, f"{folder}/.{spare}.{time.monotonic_ns()}")
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)


def _open_up(folder: str) -> None:
    """Let the owner do everything in a folder, if a program has forbidden it: each change is written to the disk."""
    if os.stat(folder).st_mode & 0o700 != 0o700:
        os.chmod(folder, 0o700)


class Belongings:
    """What a user id that programs alone have owns outside of their folder.

    Folders are looked through only where something has changed in them since the last time, and only for what is new there.
    """

    def __init__(self, user: int) -> None:
        """Args: the user id."""
        self._user = user
        self._seen: dict[str, int] = {}
        self._of_others: dict[str, set[tuple[str, int]]] = {}

    def remove(self) -> None:
        """Remove it: files in the folders that everyone may write to, shared memory, semaphores, and queues of messages."""
        for folder in _EVERYONES:
            with contextlib.suppress(OSError):
                if self._seen.get(folder) != os.stat(folder).st_mtime_ns:
                    self._remove_from(folder)
                    self._seen[folder] = os.stat(folder).st_mtime_ns
        remove_objects(self._user)

    def _remove_from(self, folder: str) -> None:
        known, self._of_others[folder] = self._of_others.get(folder, set()), set()
        with os.scandir(folder) as entries:
            for entry in entries:
                if (name := (entry.name, entry.inode())) in known:
                    self._of_others[folder].add(name)
                    continue
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == self._user:
                        if entry.is_dir(follow_symlinks=False):
                            empty(entry.path)
                            os.rmdir(entry.path)
                        else:
                            os.unlink(entry.path)
                    else:
                        self._of_others[folder].add(name)


def remove_objects(creator: int) -> None:
    """Remove the objects of System V that a user id has made, whomever it has given them to."""
    if _libc.shmctl(0, 14, _numbers) >= 0 and _numbers[0]:  # SHM_INFO: how many there are, of anybody
        for number in _objects_of(creator, "shm"):
            _libc.shmctl(number, _REMOVE, None)
    if _libc.semctl(0, 0, 19, _numbers) >= 0 and _numbers[7]:  # SEM_INFO
        for number in _objects_of(creator, "sem"):
            _libc.semctl(number, 0, _REMOVE)
    if _libc.msgctl(0, 12, _numbers) >= 0 and _numbers[0]:  # MSG_INFO
        for number in _objects_of(creator, "msg"):
            _libc.msgctl(number, _REMOVE, None)


def _objects_of(creator: int, table: str) -> list[int]:
    """The numbers of a user id's objects: one row each in /proc/sysvipc."""
    try:
        with open(f"/proc/sysvipc/{table}", "rb") as lines:
            maker = lines.readline().split().index(b"cuid")
            return [int(row[1]) for row in map(bytes.split, lines) if int(row[maker]) == creator]
    except OSError:
        return []
