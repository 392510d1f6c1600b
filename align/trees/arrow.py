"""Trees as rows of Arrow files on the disk, which are mapped into memory: a data set of any size takes no more of it than a batch."""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from align.files import naming
from align.trees.model import PreferenceTree
from align.trees.pairs import prompt_key, unite
from align.trees.records import from_record, row_types, to_row

_ROWS = 500  # a record batch, which is what is held at a time
_LOCK = "in-use"


def tree_dataset(trees: Iterable[PreferenceTree]) -> Any:
    """Trees as a `datasets.Dataset` on the disk, whatever they hold, text prompts and messages side by side.

    Args:
        trees: read one after the other; none is kept.
    """
    import datasets

    def feature(types: Any) -> Any:
        if isinstance(types, str):
            return datasets.Value(types)
        if isinstance(types, list):
            return datasets.List(feature(types[0]))
        return {name: feature(entry) for name, entry in types.items()}

    return _written((to_row(tree) for tree in trees), datasets.Features(feature(row_types())))


def merged_dataset(trees: Iterable[PreferenceTree]) -> Any:
    """As `tree_dataset`, with trees of the same prompt as one (see `align.trees.merge_prompts`)."""
    groups: dict[bytes, array[int]] = {}  # numbers of the trees of each prompt

    def noted() -> Iterator[PreferenceTree]:
        for number, tree in enumerate(trees):
            key = hashlib.blake2b(prompt_key(tree, number).encode(), digest_size=16).digest()
            groups.setdefault(key, array("q")).append(number)
            yield tree

    each = tree_dataset(noted())
    if len(groups) == len(each):
        return each
    return tree_dataset(unite([from_record(each[number]) for number in numbers]) for numbers in groups.values())


def on_disk(dataset: Any) -> Any:
    """A `datasets.Dataset` that lives in memory as one on the disk, so that what is made of it goes there, too."""
    import datasets
    import pyarrow

    path = scratch_file("records")
    with naming(path), pyarrow.OSFile(path, "wb") as out, pyarrow.ipc.new_stream(out, dataset.features.arrow_schema) as writer:
        writer.write_table(dataset.data.table, max_chunksize=_ROWS)
    return datasets.Dataset.from_file(path)


def scratch_file(name: str) -> str:
    """The path of a new file that is gone when this process has ended; `name` is a word for people who look."""
    return str(_scratch_folder() / f"{name}-{uuid.uuid4().hex[:8]}.arrow")


def _written(rows: Iterator[dict[str, Any]], features: Any) -> Any:
    import datasets
    import pyarrow

    path, schema = scratch_file("trees"), features.arrow_schema
    with naming(path), pyarrow.OSFile(path, "wb") as out, pyarrow.ipc.new_stream(out, schema) as writer:
        while some := list(islice(rows, _ROWS)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(some, schema))
    return datasets.Dataset.from_file(path)


@functools.cache
def _scratch_folder() -> Path:
    """A folder of this process beside the caches of `datasets`. Those that killed processes left behind are removed."""
    folder, lock = _new_folder()
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # and not in a process that was forked
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    atexit.register(remove)
    return folder


def _new_folder() -> tuple[Path, int]:
    """A folder, and the lock that says as long as the process lives, whatever machine looks, that it is in use."""
    import datasets

    beside = Path(datasets.config.HF_DATASETS_CACHE) / "align"
    try:
        beside.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="new-", dir=beside))
    except OSError:  # a cache that others filled and that is read only
        made = Path(tempfile.mkdtemp(prefix="new-"))
    lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: nobody could tell that the folder is in use, so nobody is to look at it
        return made, lock
    folder = made.rename(made.with_name(made.name.replace("new-", "rows-")))  # which others look at from now on
    _remove_left_behind([path for path in folder.parent.glob("rows-*") if path != folder])
    return folder, lock


def _remove_left_behind(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:  # it is no longer there, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(lock)
