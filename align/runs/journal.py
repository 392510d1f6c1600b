"""Journals: append-only JSONL with a checksum a record, readable whatever happened to the process that wrote them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from align.errors import AlignError
from align.files import files_in, sync, writing

logger = logging.getLogger(__name__)
Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Shard:
    """Which part of a stage's batches a process does: number `index` of `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/16", the fourth of sixteen.

        Raises:
            AlignError: another form, or an index that does not exist.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise AlignError(f"shard '{text}': expected INDEX/COUNT with INDEX from 0 to COUNT − 1, such as 3/16")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def own_batches(units: Sequence[Unit], size: int, done: set[str], shard: Shard) -> Iterator[list[Unit]]:
    """The batches that a shard still has to do.

    Batches are cut from the list of all units, so that what stands together in a batch depends neither on the number
    of shards nor on what an interrupted process had finished: the numbers come out the same to the last bit.

    Args:
        units: with an `id`; always all of them, in the same order.
        size: units a batch.
        done: ids that need not be done again. A batch done in part is yielded whole.
        shard: batches are dealt out in turn.
    """
    for number in range(shard.index, -(-len(units) // size), shard.count):
        batch = list(units[number * size : (number + 1) * size])
        if not all(unit.id in done for unit in batch):  # type: ignore[attr-defined]
            yield batch


WHOLE = Shard()


class Journal:
    """One process's journal file, opened for appending; a torn last line is cut off first.

    Raises:
        AlignError: on writing, when the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path, shard: Shard = WHOLE) -> None:
        """Args: folder of the stage's journals; shard, which names the file."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"part-{shard.index:05d}-of-{shard.count:05d}.jsonl"
        with _writing(self.path):
            _repair(self.path)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (closed by close())
            sync(folder)

    def append(self, records: Iterable[tuple[str, Any]]) -> None:
        """Write finished units, (id, record) each, at once and through to the disk."""
        data = b"".join(_line(id, record) for id, record in records)
        with _writing(self.path):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def mend(folder: Path) -> None:
    """Put the damaged lines of all journals of a folder aside, so that their units are done again."""
    for path in files_in(folder, "part-*.jsonl"):
        with _writing(path):
            _repair(path)


def _repair(path: Path) -> None:
    """Leave only whole lines with right checksums; move damaged ones to a file beside."""
    if not path.exists():
        return
    good: list[bytes] = []
    bad: list[bytes] = []
    with open(path, "rb") as lines:
        for line in lines:
            (good if _parse(line) else bad).append(line)
    if not bad:
        return
    logger.warning("%s: %d damaged line(s) set aside; their units are done again.", path, len(bad))
    with open(path.with_suffix(".damaged"), "ab") as aside:
        aside.writelines(bad)
    with writing(path) as scratch:
        scratch.write_bytes(b"".join(good))


def read_journal(folder: Path) -> dict[str, Any]:
    """All whole records of a folder's journals by id; damaged lines are left out, their units count as not done."""
    records: dict[str, Any] = {}
    for path in files_in(folder, "part-*.jsonl"):
        with open(path, "rb") as lines:
            for line in lines:
                if parsed := _parse(line):
                    records.setdefault(*parsed)
    return records


_HEAD = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*"), "checksum": "([0-9a-f]{8})", "record": ')


def _line(id: str, record: Any) -> bytes:
    name, body = json.dumps(id).encode(), json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace")
    return b'{"id": %b, "checksum": "%08x", "record": %b}\n' % (name, zlib.crc32(name + b" " + body), body)


def _parse(line: bytes) -> tuple[str, Any] | None:
    """The id and the record of a line; None where its bytes are not those that were written."""
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"}\n"):
        return None
    name, body = head[1], line[head.end() : -2]
    if int(head[2], 16) != zlib.crc32(name + b" " + body):
        return None
    try:
        return json.loads(name), json.loads(body)
    except (ValueError, RecursionError):
        return None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a failed write into a sentence."""
    try:
        yield
    except OSError as error:
        raise AlignError(
            f"{error.filename or path}: {error.strerror or error}. What was finished before is kept: make room, then run the same "
            "command again"
        ) from error
