"""The items of a JSON list in a file, one at a time: a file of any size takes no more memory than its longest item."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

NOT_JSON = (ValueError, RecursionError)  # also integers of thousands of digits, and lists a thousand deep
_CHUNK = 1 << 20  # characters read at once, at least
_DECODER, _BLANKS = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
_ENDS = ",] \t\r\n"  # what may follow a value


def is_list(file: TextIO) -> bool:
    """Whether a file holds one JSON list and nothing else; leaves the file at its beginning."""
    try:
        for _ in items(file):
            pass
    except NOT_JSON:
        return False
    finally:
        file.seek(0)
    return True


def items(file: TextIO) -> Iterator[Any]:
    """The items of the list that a file holds.

    Raises:
        ValueError, RecursionError: it holds something else.

    >>> import io
    >>> list(items(io.StringIO('[1, {"a": [2]}]')))
    [1, {'a': [2]}]
    """
    text = _Text(file)
    text.take("[")
    if text.peek() == "]":
        text.take("]")
    else:
        yield text.value()
        while text.take(",]") == ",":
            yield text.value()
    if text.peek():
        raise ValueError("something follows the list")


class _Text:
    """A file's text from where it has been read, as much of it as is needed."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0

    def peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            match = _BLANKS.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def take(self, expected: str) -> str:
        """Read the next character, one of `expected`."""
        character = self.peek()
        if not character or character not in expected:
            raise ValueError(f"there is {character!r} where one of {expected!r} should be")
        self._at += 1
        return character

    def value(self) -> Any:
        """Read a value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if not self._read_on():
                    raise
                continue
            length = end - self._at
            whole = end < len(self._text) and self._text[end] in _ENDS  # else a number may go on
            if whole or not self._read_on():
                self._at += length
                return value

    def _read_on(self) -> bool:
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))  # twice as much each time: a long value is read few times over
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)
