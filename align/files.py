"""Files that are whole or not there: written aside, synced to the disk, renamed into place. JSON that may have been damaged since."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.errors import AlignError


class DamagedError(AlignError):
    """A file does not hold what was written to it; the message says which, and what is wrong."""


def put(scratch: Path, target: Path) -> None:
    """Put a finished file or folder in a target's place, whose content is on the disk before it has the name.

    Args:
        scratch: beside `target`; it is gone afterwards.
        target: replaced if it is there.
    """
    for path in [*scratch.rglob("*"), scratch] if scratch.is_dir() else [scratch]:
        _sync(path)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(scratch, target)
    _sync(target.parent)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path)
    scratch.write_text(writable(text), encoding="utf-8")
    put(scratch, path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, is_whole: Callable[[Any], bool]) -> Any:
    """What a JSON file holds; None where there is no such file.

    Args:
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
