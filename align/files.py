"""Files that are whole or not there: written aside, synced to the disk, renamed into place. JSON that may have been damaged since."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.errors import AlignError

_PASSING = (errno.ESTALE, errno.EIO)  # what a network file system says of a server that was restarted
_PAUSES = (0.05, 0.2, 0.8)  # seconds before a rename is tried again
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # some file systems do not sync folders


class DamagedError(AlignError):
    """A file does not hold what was written to it; the message says which, and what is wrong."""


def put(scratch: Path, target: Path) -> None:
    """Put a finished file or folder in a target's place, whose content is on the disk before it has the name.

    Args:
        scratch: beside `target`; it is gone afterwards, whatever happens.
        target: replaced if it is there.
    """
    try:
        for path in [*scratch.rglob("*"), scratch] if scratch.is_dir() else [scratch]:
            sync(path)
        if target.is_dir():
            shutil.rmtree(target)
        rename(scratch, target)
    except OSError:
        remove(scratch)  # which may be gigabytes on a disk that is full
        raise
    sync(target.parent)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name, whatever had it before; tried again where a network file system lost its handle for a moment."""
    for pause in (*_PAUSES, None):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if pause is None or error.errno not in _PASSING:
                raise
            time.sleep(pause)
            if not source.exists() and target.exists():  # it was done, and only the answer was lost
                return


def remove(path: Path) -> None:
    """Delete a file or folder as far as that can be done."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; none where there is no such folder. Unlike `Path.rglob` it passes over no folder in silence.

    Raises:
        OSError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    return sorted(Path(parent) / name for parent, _, names in os.walk(folder, onerror=refuse, followlinks=True) for name in names)


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The files and folders in a folder whose names match a pattern, sorted; none where there is no such folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    try:
        return sorted(folder / name for name in fnmatch.filter(os.listdir(folder), pattern))
    except FileNotFoundError:
        return []


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or what a folder lists."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have errors of the system say which file was written, which those of a failed write do not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A scratch file's path, which is put in the place of `path` at the end of the context, and removed if that ends in an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path)
    try:
        with naming(path):
            yield scratch
    except BaseException:
        remove(scratch)
        raise
    put(scratch, path)


def scratch_of(path: Path) -> Path:
    """A name beside `path` that no other process takes."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def writable(text: str) -> str:
    r"""A text without half surrogate pairs, which no file and no terminal takes: they become their escapes.

    >>> print(writable("cut \ud83d"))
    cut \ud83d
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text file; of half a surrogate pair the escape, which in JSON is the same character."""
    with writing(path) as scratch:
        scratch.write_text(writable(text), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, is_whole: Callable[[Any], bool]) -> Any:
    """What a JSON file holds; None where there is no such file.

    Args:
        path: of the file.
        is_whole: whether content is what this file should hold.

    Raises:
        DamagedError: it was cut, emptied or altered.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not is_whole(content):
        raise DamagedError(f"{path} is damaged: it does not hold what was written to it")
    return content
