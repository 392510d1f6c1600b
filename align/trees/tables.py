"""Rows of CSV and TSV files as records: every cell is text as it stands there, but for messages, which are written as JSON or by Python.

No type is guessed: an answer "007" stays one, and so do "NA", "None" and "1e5", which other readers take for numbers or for nothing.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from align.errors import AlignError
from align.trees.messages import are_messages
from align.trees.text import Unparsed

_SEPARATORS = (",", ";", "\t", "|")
_LONGEST = 1 << 30  # characters of a cell
_SAYS_SEPARATOR = re.compile(r"sep=(.)\s*$")  # the first line of files that Excel writes
_LISTS = {"nodes", "edges", "history", "test_list"}
"""Columns whose cells are lists of other things than messages."""


def table_rows(file: TextIO, path: Path, separator: str | None = None) -> Iterator[tuple[str, dict[str, Any] | Unparsed]]:
    """The rows of a table with their places, under the names of its first row.

    Args:
        file: opened with `newline=""`.
        path: of the file, for places and errors.
        separator: of cells; None: a comma, or what else parts the first row.

    Yields:
        `(file line n, record)`; a row with another number of cells than the first, or with quotes that do not close, as `Unparsed`.

    Raises:
        AlignError: two columns have the same name.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    lines = _Lines(file)
    header = lines.next_line()
    if (said := _SAYS_SEPARATOR.match(header)) is not None:
        separator, header = said[1], lines.next_line()
    lines.give_back(header)
    separator = separator or _separator(header)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise AlignError(f"{path} line 1: the names of the columns cannot be read: {error}") from error
    for name in names:
        if name and names.count(name) > 1:
            raise AlignError(f"{path}: two columns have the name '{name}'")
    while True:
        number = lines.begin_record()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells = _unquoted(lines.text, separator, len(names))
            if cells is None:
                yield f"{path} line {number}", Unparsed(lines.text, f"the row cannot be read: {error}")
                continue
        if cells is None:
            return
        if any(cells):
            yield f"{path} line {number}", _record(names, cells, lines.text)


def _record(names: Sequence[str], cells: Sequence[str], text: str) -> dict[str, Any] | Unparsed:
    while len(cells) > len(names) and not cells[-1]:
        cells = cells[:-1]  # empty cells behind the last column
    if len(cells) != len(names):
        told = f"the row has {len(cells)} cells, but the first row names {len(names)} columns"
        return Unparsed(text, f"{told} (a text with a separator or a line break in it needs quotes around it)")
    return {name: cell_value(name, cell) for name, cell in zip(names, cells, strict=True) if name}


def cell_value(name: str, cell: str) -> Any:
    """What a cell holds: its text, or the messages that are written in it (in JSON, or as Python prints them).

    >>> cell_value("chosen", "[1, 2]"), cell_value("chosen", "[{'role': 'user', 'content': 'Hi'}]")
    ('[1, 2]', [{'role': 'user', 'content': 'Hi'}])
    """
    bare = cell.strip()
    if not (bare.startswith(("[", "{")) and bare.endswith(("]", "}"))):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(bare)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        listed = isinstance(value, list) and (name in _LISTS or (are_messages(value) and all(isinstance(turn, dict) for turn in value)))
        return value if listed or (isinstance(value, dict) and are_messages([value])) else cell
    return cell


def _separator(header: str) -> str:
    """A comma, unless there is none outside quotes and another separator is."""
    bare = re.sub(r'"[^"]*"', "", header)
    return next((separator for separator in _SEPARATORS if separator in bare), ",")


def _unquoted(text: str, separator: str, count: int) -> list[str] | None:
    """The cells of a tab-separated line whose texts have quotes of their own, where their number is right."""
    cells = text.rstrip("\r\n").split(separator)
    return cells if separator == "\t" and len(cells) == count and "\n" not in text.rstrip("\r\n") else None


class _Lines:
    """A file's lines; remembers those of the record that is being read."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._waiting, self._number = iter(file), "", 0
        self.text = ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.next_line()
        if not line:
            raise StopIteration
        self.text += line
        return line

    def next_line(self) -> str:
        line, self._waiting = self._waiting or next(self._file, ""), ""
        self._number += bool(line)
        return line

    def give_back(self, line: str) -> None:
        self._waiting, self._number = line, self._number - bool(line)

    def begin_record(self) -> int:
        """Forget the lines so far; returns the number of the next."""
        self.text = ""
        return self._number + 1
