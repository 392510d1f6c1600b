"""Reading and writing trees: JSONL and Parquet, local or on the hub, with every bad record named and kept."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from align import hub
from align.errors import AlignError
from align.files import naming, put, remove, scratch_of, writing
from align.trees.arrow import tree_dataset
from align.trees.columns import ColumnsError, check_sources, check_targets
from align.trees.json_lists import NOT_JSON, is_list, items
from align.trees.messages import described, from_arrow
from align.trees.model import PreferenceTree
from align.trees.pairs import pairs_from_tree, tree_from_pair
from align.trees.records import from_record, is_tree_record, to_record
from align.trees.tables import table_rows
from align.trees.text import Unparsed, text_of_file

_LINES, _SHEETS, _TABLES = (".jsonl", ".ndjson"), {".csv": None, ".tsv": "\t"}, {".parquet": "parquet", ".arrow": "arrow"}
FILES = (*_LINES, ".json", *_SHEETS, *_TABLES)
"""The ends of the names of files that are read; of text, also with .gz after them."""
LOOKED_AT = 20  # records at the beginning of a source: if all have columns that no form has, the source is refused


@dataclass(frozen=True)
class Rejected:
    """A record that could not be used: where it stands, why, and the record itself (text if it could not be parsed)."""

    where: str
    reason: str
    record: Any


def tree_of(record: Any, columns: Mapping[str, str | None] | None = None) -> PreferenceTree:
    """A tree record or a preference pair as a tree.

    Args:
        record: in any form of `align.trees.forms`, or a tree's.
        columns: for pairs, our names → the data set's.

    Raises:
        AlignError: what is wrong with it.
    """
    if not isinstance(record, Mapping):
        if isinstance(record, Unparsed):
            raise AlignError(record.reason)
        raise AlignError("the line is not JSON" if isinstance(record, str) else f"the record is {described(record)}: expected an object")
    return from_record(record) if is_tree_record(record) else tree_from_pair(record, columns)


def check_columns(records: Iterable[Any], columns: Mapping[str, str | None] | None, where: str) -> None:
    """See that the first records of a source are in a form that is read.

    Args:
        records: some of the source's first.
        columns: as for `tree_of`.
        where: the source.

    Raises:
        AlignError: a mapping to a name that nothing has, or the columns of all of them hold no pair and no tree: names the columns.
    """
    check_targets(columns)
    if columns:
        records = [record for record in records if isinstance(record, Mapping)]
        if records and not any(map(is_tree_record, records)):
            check_sources(columns, {name for record in records for name in record})
    reason: ColumnsError | None = None
    for record in records:
        try:
            if isinstance(record, Mapping):
                tree_of(record, columns)
                return
        except ColumnsError as error:
            reason = reason or error
        except AlignError:
            return
    if reason is not None:
        raise AlignError(f"{where}: {reason}") from reason


def check_source(path: str | os.PathLike[str], split: str = "train", columns: Mapping[str, str | None] | None = None) -> None:
    """See that a source's first records are in a form that is read.

    Raises:
        AlignError: as `check_columns`, or the source does not exist or is empty.
    """
    first = [record for _, record in itertools.islice(read_records(path, split), LOOKED_AT)]
    if not first:
        raise AlignError(f"{path}: there is no record in it")
    check_columns(first, columns, str(path))


def read_records(path: str | os.PathLike[str], split: str = "train") -> Iterator[tuple[str, Any]]:
    """Raw records of a source with the place of each: `(file line n, record)`.

    JSONL (also .ndjson) is read line by line, so that a corrupt line is named by its number, and a list (in .json, or in .jsonl) item by
    item, so that every record keeps its own keys and types; CSV and TSV row by row, every cell as text. All of them may be gzipped, and
    be UTF-8 or UTF-16. Parquet and Arrow files and names on the hub ("owner/name", or "owner/name:subset") go through `datasets`, and
    lose the nulls of nested keys, which Arrow fills in. What cannot be parsed is yielded as text.
    """
    source = Path(path)
    suffix = file_type(source)
    if suffix in FILES and not source.is_file() and not source.is_dir():
        raise AlignError(f"{source}: no such file")
    if suffix not in (*_LINES, ".json", *_SHEETS) or source.is_dir():
        for number, row in enumerate(_rows(path, split)):
            yield f"{path} row {number}", from_arrow(row)
        return
    with text_of_file(source, newline="" if suffix in _SHEETS else None) as file:
        if suffix in _SHEETS:
            yield from table_rows(file, source, _SHEETS[suffix])
        elif _begins_list(file) and is_list(file):
            yield from _numbered(items(file), source)
        elif suffix in _LINES:
            yield from _json_lines(file, source)
        else:
            yield from _json_items(file.read(), source)


def _begins_list(file: TextIO) -> bool:
    """Whether the first character that is no blank is a bracket; leaves the file at its beginning."""
    first = next((character for line in file if (character := line.strip()[:1])), "")
    file.seek(0)
    return first == "["


def file_type(source: str | os.PathLike[str]) -> str:
    """The end of a file's name that says how it is read, in small letters and without .gz."""
    path = Path(source)
    return Path(path.stem if path.suffix == ".gz" else path).suffix.lower()


def _json_lines(lines: Iterable[str], source: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except NOT_JSON:
                record = line.rstrip("\n")
            yield f"{source} line {number}", record


def _json_items(text: str, source: Path) -> Iterator[tuple[str, Any]]:
    """The items of the only list of a JSON object (`{"data": […]}`), the rows of one that holds columns, else the object; else JSON
    lines in a .json file."""
    try:
        content = json.loads(text)
    except NOT_JSON:
        yield from _json_lines(text.split("\n"), source)
        return
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        content = lists[0] if len(lists) == 1 and not {"chosen", "nodes"} & content.keys() else _rows_of_columns(content) or [content]
    if not isinstance(content, list):
        raise AlignError(f"{source}: it holds {described(content)}: expected a list of records")
    yield from _numbered(content, source)


def _rows_of_columns(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table that was written by columns, as pandas does: each a list, or an object by the rows' numbers; else none."""
    columns = {name: list(column.values()) if isinstance(column, dict) else column for name, column in content.items()}
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    numbered = all(isinstance(column, dict) and all(key.isdecimal() for key in column) for column in content.values())
    listed = all(isinstance(column, list) and not any(isinstance(cell, dict) for cell in column) for column in content.values())
    if len(columns) < 2 or len(lengths) != 1 or not (numbered or listed):
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _numbered(content: Iterable[Any], source: Path) -> Iterator[tuple[str, Any]]:
    return ((f"{source} row {number}", item) for number, item in enumerate(content))


def _rows(path: str | os.PathLike[str], split: str) -> Iterable[dict[str, Any]]:
    import datasets

    source, suffix = Path(path), file_type(path)
    if source.is_file() and suffix not in _TABLES:
        raise AlignError(f"{path}: {why_unread(source)}")
    try:
        if source.is_file():
            return datasets.load_dataset(_TABLES[suffix], data_files=str(source), split="train")
        if source.is_dir() and (source / "dataset_info.json").exists():
            return datasets.load_from_disk(str(source))
        name, _, subset = str(path).partition(":")
        if not source.exists():
            hub.offline_where_unreachable()
        return datasets.load_dataset(name, subset or None, split=split)
    except Exception as error:
        raise AlignError(f"data set '{path}' (split '{split}'): {type(error).__name__}: {hub.hint(error)}") from error


def why_unread(source: Path) -> str:
    """What is said of a file whose type is not read."""
    hint = " (`align show --as-model-sees RECIPE` shows a recipe's data)" if source.suffix in (".yaml", ".yml") else ""
    return f"a file of this type is not read: expected {', '.join(FILES)}, text also with .gz after it{hint}"


def locate_trees(
    path: str | os.PathLike[str], split: str = "train", columns: Mapping[str, str | None] | None = None
) -> Iterator[tuple[str, PreferenceTree | Rejected]]:
    """Every record of a source with its place: as a tree, or as rejected with the reason.

    Raises:
        AlignError: the source does not exist, or its columns are those of no form that is read (see `check_columns`).
    """
    records = read_records(path, split)
    first = list(itertools.islice(records, LOOKED_AT))
    check_columns([record for _, record in first], columns, str(path))
    for where, record in itertools.chain(first, records):
        try:
            yield where, tree_of(record, columns)
        except AlignError as error:
            yield where, Rejected(where, str(error), record)


def read_trees(
    path: str | os.PathLike[str], split: str = "train", columns: Mapping[str, str | None] | None = None
) -> tuple[list[PreferenceTree], list[Rejected]]:
    """Read a preference source: trees or pairs.

    Returns:
        The trees, and the records that could not be used, each with its place and one reason.

    Raises:
        AlignError: as `locate_trees`.
    """
    found = [item for _, item in locate_trees(path, split, columns)]
    return [item for item in found if isinstance(item, PreferenceTree)], [item for item in found if isinstance(item, Rejected)]


class UnusableRecords:
    """Counts records that cannot be used, and writes each to a file as it comes; it holds the first one alone.

    A context, at whose end the file is in place if `check` was called, and else nothing is left of it.

    Attributes:
        count: how many there are.
        first: the first, if there is one.
    """

    def __init__(self, keep_aside: str | os.PathLike[str] | None) -> None:
        """Args: keep_aside, the JSONL file to write them to (replaced as a whole, if there are any); None writes nothing."""
        self.count = 0
        self.first: Rejected | None = None
        self._target = None if keep_aside is None else Path(keep_aside)
        self._out: TextIO | None = None

    def add(self, record: Rejected) -> None:
        """Count one, and write it."""
        self.count += 1
        self.first = self.first or record
        if self._target is None:
            return
        if self._out is None:
            self._out = _text_file(scratch_of(self._target))
        with naming(self._out.name):
            self._out.write(_line({"where": record.where, "reason": record.reason, "record": record.record}))

    def check(self, usable: int, limit: float) -> None:
        """Put the file in its place, and stop when their share is above `limit`.

        Args:
            usable: how many records were usable.
            limit: the largest share of all records that may be unusable, 0 to 1.

        Raises:
            AlignError: the share is above the limit; names the first bad record.
        """
        if self.first is None:
            if self._target is not None:
                remove(self._target)  # of data that was mended since
            return
        kept = ""
        if self._out is not None and self._target is not None:
            with naming(self._out.name):
                self._out.close()
            put(Path(self._out.name), self._target)
            kept = f" They are kept in {self._target}."
        share = self.count / (self.count + usable)
        if share > limit:
            raise AlignError(
                f"{self.first.where}: {self.first.reason} ({self.count} of {self.count + usable} records are unusable, "
                f"{share:.0%}; the limit is {limit:.0%}.{kept})"
            )

    def __enter__(self) -> UnusableRecords:
        return self

    def __exit__(self, *error: object) -> None:
        if self._out is not None:
            with contextlib.suppress(OSError):  # of a disk that is full, which has been said
                self._out.close()
            remove(Path(self._out.name))


def check_rejected(trees: int, rejected: Iterable[Rejected], keep_aside: str | os.PathLike[str] | None, limit: float) -> None:
    """Keep rejected records aside, and stop when their share is above `limit`.

    Args:
        trees: how many records were usable.
        rejected: the others.
        keep_aside: see `UnusableRecords`.
        limit: see `UnusableRecords`.

    Raises:
        AlignError: the share is above the limit; names the first bad record.
    """
    with UnusableRecords(keep_aside) as unusable:
        for record in rejected:
            unusable.add(record)
        unusable.check(trees, limit)


def write_trees(trees: Iterable[PreferenceTree], path: str | os.PathLike[str]) -> None:
    """Write trees to a `.jsonl` or `.parquet` file, as a whole or not at all.

    Raises:
        AlignError: another file type.
    """
    if Path(path).suffix == ".parquet":
        _write_parquet(tree_dataset(trees), path)
    else:
        _write_lines((to_record(tree) for tree in trees), path)


def write_pairs(
    trees: Iterable[PreferenceTree], path: str | os.PathLike[str], pairs_of: Callable[[PreferenceTree], Iterator[Any]] = pairs_from_tree
) -> None:
    """Write every edge as a prompt/chosen/rejected record, for any trainer.

    Args:
        trees: all with text prompts, or all with messages, if another trainer is to load the file.
        path: a .jsonl or .parquet file.
        pairs_of: the records of a tree's edges.

    Raises:
        AlignError: another file type, or pairs of both kinds for Parquet.
    """
    pairs = (pair for tree in trees for pair in pairs_of(tree))
    if Path(path).suffix == ".parquet":
        _write_parquet(record_dataset(list(pairs)), path)
    else:
        _write_lines(pairs, path)


def record_dataset(records: Sequence[Any]) -> Any:
    """Records as a `datasets.Dataset`; tools as JSON text, which trainers read, so that no schema gets the keys of another.

    Raises:
        AlignError: one is no object, or they do not fit into one table.
    """
    import datasets

    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise AlignError(f"record {number} is {described(record)}: expected an object")
    columns = dict.fromkeys(name for record in records for name in record)
    table = {name: [record.get(name) for record in records] for name in columns}
    if "tools" in table:
        table["tools"] = [tools if tools is None or isinstance(tools, str) else json.dumps(tools) for tools in table["tools"]]
    try:
        return datasets.Dataset.from_dict(table)
    except (ValueError, TypeError, OverflowError) as error:  # Arrow's
        reason = str(error).splitlines()[0]
        raise AlignError(f"the records do not fit into one table (text and messages side by side?); write .jsonl: {reason}") from error


def _write_parquet(dataset: Any, path: str | os.PathLike[str]) -> None:
    with writing(Path(path)) as scratch:
        dataset.to_parquet(str(scratch))


def _write_lines(records: Iterable[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    if Path(path).suffix != ".jsonl":
        raise AlignError(f"{path}: the file must end in .jsonl or .parquet")
    write_jsonl(records, path)


def write_jsonl(records: Iterable[Any], path: str | os.PathLike[str]) -> None:
    """Write records to a JSONL file, whole or not at all. What JSON has no type for (dates, say) is written as text."""
    with writing(Path(path)) as scratch, _text_file(scratch) as out:
        out.writelines(map(_line, records))


def _text_file(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w", encoding="utf-8", errors="backslashreplace")  # half a surrogate pair stays a JSON escape


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, default=str) + "\n"
