"""Text files of data as people have them: packed by gzip or not, in UTF-8, UTF-16 or UTF-32, with a byte-order mark or without one."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from align.errors import AlignError

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)  # fmt: skip
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook: unpack it, or save the sheet as CSV (UTF-8)",
    b"PAR1": "a Parquet file: give it a name that ends in .parquet",
    b"BZh": "packed by bzip2: unpack it",
    b"\xfd7zXZ": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
}
"""First bytes of files that are no text, and what to do about each."""


class Unparsed(str):
    """The text of a record that could not be parsed; `reason` says why."""

    reason: str

    def __new__(cls, text: str, reason: str) -> Unparsed:
        unparsed = super().__new__(cls, text)
        unparsed.reason = reason
        return unparsed


@contextlib.contextmanager
def text_of_file(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A file of text, open for reading, whatever its encoding.

    Bytes that are no UTF-8 become lone surrogates, for which a record is set aside where it is used.

    Args:
        path: the file; gzip is told by its first bytes, or by the name's end.
        newline: as for `open`.

    Raises:
        AlignError: it is a file of another kind, or damaged; the message says which.
    """
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b" or path.suffix == ".gz"
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            first = file.read(8)
            for magic, advice in _OTHERS.items():
                if first.startswith(magic):
                    raise AlignError(f"{path}: it is no text, but {advice}")
            file.seek(0)
            encoding = encoding_of(first)
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline) as text:
                yield text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AlignError(f"{path}: it is no whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise AlignError(f"{path}: it begins as {error.encoding.upper()} text and is damaged: save it as UTF-8") from error


def encoding_of(first: bytes) -> str:
    """The encoding of a text by its first bytes: by its byte-order mark, or by where the zeros of ASCII characters stand.

    >>> encoding_of(b'{"a": 1'), encoding_of('{"a"'.encode("utf-16-le")), encoding_of('{"'.encode("utf-16"))
    ('utf-8-sig', 'utf-16-le', 'utf-16')
    """
    for mark, name in _MARKS:
        if first.startswith(mark):
            return name
    zeros = [byte == 0 for byte in first[:4]]
    by_zeros: dict[tuple[bool, ...], str] = {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}
    return by_zeros.get(tuple(zeros), "utf-8-sig")
