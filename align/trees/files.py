"""Reading and writing trees: JSONL and Parquet, local or on the hub, with every bad record named and kept."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.trees.model import PreferenceTree
from align.trees.pairs import pairs_from_tree, tree_from_pair
from align.trees.records import from_record, is_tree_record, to_record


@dataclass(frozen=True)
class Rejected:
    """A record that could not be used: where it stands, why, and the record itself (text if it could not be parsed)."""

    where: str
    reason: str
    record: Any


def tree_of(record: Mapping[str, Any]) -> PreferenceTree:
    """A tree record or a preference pair as a tree.

    Raises:
        AlignError: what is wrong with it.
    """
    return from_record(record) if is_tree_record(record) else tree_from_pair(record)


def read_records(path: str | os.PathLike[str], split: str = "train") -> Iterator[tuple[str, Any]]:
    """Raw records of a source with the place of each: `(file line n, record)`.

    JSONL (also .jsonl.gz) is read line by line, so that a corrupt line is named by its number; Parquet, JSON and names on the hub
    ("owner/name", or "owner/name:subset") go through `datasets`. A JSONL line that is no JSON is yielded as text.
    """
    source = Path(path)
    if source.suffix == ".jsonl" or source.suffixes[-2:] == [".jsonl", ".gz"]:
        if not source.is_file():
            raise AlignError(f"{source}: no such file")
        with (gzip.open if source.suffix == ".gz" else open)(source, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield f"{source} line {number}", json.loads(line)
                    except json.JSONDecodeError:
                        yield f"{source} line {number}", line.rstrip("\n")
        return
    import datasets

    if source.suffix in (".parquet", ".json"):
        if not source.is_file():
            raise AlignError(f"{source}: no such file")
        rows = datasets.load_dataset(source.suffix[1:], data_files=str(source), split="train")
    elif source.is_dir() and (source / "dataset_info.json").exists():
        rows = datasets.load_from_disk(str(source))
    else:
        try:
            name, _, subset = str(path).partition(":")
            rows = datasets.load_dataset(name, subset or None, split=split)
        except Exception as error:
            raise AlignError(f"data set '{path}' (split '{split}'): {type(error).__name__}: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(rows):
        yield f"{path} row {number}", row


def locate_trees(path: str | os.PathLike[str], split: str = "train") -> Iterator[tuple[str, PreferenceTree | Rejected]]:
    """Every record of a source with its place: as a tree, or as rejected with the reason.

    Raises:
        AlignError: the source does not exist.
    """
    for where, record in read_records(path, split):
        try:
            if isinstance(record, str):
                raise AlignError("the line is not JSON")
            yield where, tree_of(record)
        except AlignError as error:
            yield where, Rejected(where, str(error), record)


def read_trees(path: str | os.PathLike[str], split: str = "train") -> tuple[list[PreferenceTree], list[Rejected]]:
    """Read a preference source: trees or pairs.

    Returns:
        The trees, and the records that could not be used, each with its place and one reason.

    Raises:
        AlignError: the source does not exist.
    """
    found = [item for _, item in locate_trees(path, split)]
    return [item for item in found if isinstance(item, PreferenceTree)], [item for item in found if isinstance(item, Rejected)]


def check_rejected(trees: int, rejected: list[Rejected], keep_aside: str | os.PathLike[str] | None, limit: float) -> None:
    """Keep rejected records aside, and stop when their share is above `limit`.

    Args:
        trees: how many records were usable.
        rejected: the others.
        keep_aside: JSONL file to write them to (replaced as a whole); None writes nothing.
        limit: the largest share of all records that may be rejected, 0 to 1.

    Raises:
        AlignError: the share is above the limit; names the first bad record.
    """
    if not rejected:
        return
    if keep_aside is not None:
        write_jsonl(({"where": r.where, "reason": r.reason, "record": r.record} for r in rejected), keep_aside)
    share = len(rejected) / (len(rejected) + trees)
    if share > limit:
        kept = f" They are kept in {keep_aside}." if keep_aside is not None else ""
        first = rejected[0]
        raise AlignError(
            f"{first.where}: {first.reason} ({len(rejected)} of {len(rejected) + trees} records are unusable, "
            f"{share:.0%}; the limit is {limit:.0%}.{kept})"
        )


def write_trees(trees: Iterable[PreferenceTree], path: str | os.PathLike[str]) -> None:
    """Write trees to a `.jsonl` or `.parquet` file, as a whole or not at all.

    Raises:
        AlignError: another file type.
    """
    records = (to_record(tree) for tree in trees)
    _write(records, path)


def write_pairs(trees: Iterable[PreferenceTree], path: str | os.PathLike[str]) -> None:
    """Write every edge as a prompt/chosen/rejected record, for any trainer."""
    _write((pair for tree in trees for pair in pairs_from_tree(tree)), path)


def _write(records: Iterable[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    suffix = Path(path).suffix
    if suffix == ".jsonl":
        write_jsonl(records, path)
    elif suffix == ".parquet":
        import datasets

        scratch = Path(path).with_suffix(".parquet.tmp")
        datasets.Dataset.from_list(list(records)).to_parquet(str(scratch))
        os.replace(scratch, path)
    else:
        raise AlignError(f"{path}: the file must end in .jsonl or .parquet")


def write_jsonl(records: Iterable[Any], path: str | os.PathLike[str]) -> None:
    """Write records to a JSONL file: aside first, then renamed into place."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(target.name + ".tmp")
    with open(scratch, "w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(scratch, target)
