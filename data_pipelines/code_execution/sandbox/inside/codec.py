"""Plain values as bytes, for two processes of which one may lie. Decoding builds plain values and nothing else: it executes no code.

Plain are None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, range, iterators (as what they yield), the
views of a dict, and what standard.py takes apart. A subclass of these arrives as its plain base. Anything else is handed to `opaque`,
which may give it a token.
"""

from __future__ import annotations

import collections
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import standard
from .standard import TooLargeError

MAX_DEPTH = 100
MAX_BYTES = 16 << 20
MAX_YIELDED = 10_000  # items that an iterator is asked for; one that has more stays where it is
_LENGTH = struct.Struct(">I")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")
_SMALL = struct.Struct(">q")


class MalformedError(ValueError):
    """Bytes that `encode` does not write."""


class Token:
    """A value that stays where it is: another process knows its number, its truth and the name of its type."""

    __slots__ = ("number", "truth", "type_name")

    def __init__(self, number: int, truth: bool, type_name: str) -> None:
        """Args: number at the process that holds the value; bool(value); name of its type."""
        self.number, self.truth, self.type_name = number, truth, type_name

    def __bool__(self) -> bool:
        return self.truth

    def __eq__(self, other: object) -> bool:
        return type(other) is Token and other.number == self.number

    def __hash__(self) -> int:
        return hash((Token, self.number))

    def __repr__(self) -> str:
        return f"<{self.type_name} in the program>"


def encode(value: Any, opaque: Callable[[Any], Token] | None = None, max_bytes: int = MAX_BYTES, depth: int = MAX_DEPTH) -> bytes:
    """A value as bytes.

    Args:
        value: to be written.
        opaque: gives what is not plain a token; left out, it is an error.
        max_bytes: a larger result is an error; noticed before much memory is used.
        depth: of containers within each other, at most.

    Raises:
        TooLargeError: nested too deep, too many bytes.
        TypeError: not plain.
    """
    out = bytearray()
    _write(out, value, opaque, max_bytes, depth)
    return bytes(out)


def _write(out: bytearray, value: Any, opaque: Callable[[Any], Token] | None, room: int, depth: int) -> None:
    kind = type(value)
    write = _WRITERS.get(kind)
    if len(out) > room:
        raise TooLargeError(f"more than {room} bytes")
    if depth == 0:
        raise TooLargeError("nested too deep")
    if write is None:
        if (parts := standard.reduced(value, room)) is not None:
            _write_items(b"x", out, parts, opaque, room, depth - 1)
            return
        write = next((_WRITERS[base] for base in kind.__mro__ if base in _WRITERS), None)
    if write is not None:
        write(out, value, opaque, room, depth - 1)
    elif issubclass(kind, Iterator):
        _write_iterator(out, value, opaque, room, depth)
    elif opaque is not None:
        _write_token(out, opaque(value), opaque, room, depth)
    else:
        raise TypeError(f"a {kind.__name__} is not a plain value")


def _write_items(tag: bytes, out: bytearray, items: Any, opaque: Any, room: int, depth: int) -> None:
    start = len(out)
    out += tag + b"\0\0\0\0"
    count = 0
    for item in items:
        _write(out, item, opaque, room, depth)
        count += 1
    _LENGTH.pack_into(out, start + 1, count)


def _write_iterator(out: bytearray, value: Iterator[Any], opaque: Callable[[Any], Token] | None, room: int, depth: int) -> None:
    items = list(itertools.islice(value, MAX_YIELDED + 1))
    if len(items) <= MAX_YIELDED:
        _write_items(b"g", out, items, opaque, room, depth - 1)
    elif opaque is not None:
        _write_token(out, opaque(itertools.chain(items, value)), opaque, room, depth)
    else:
        raise TooLargeError(f"an iterator of more than {MAX_YIELDED} items")


def _write_bytes(tag: bytes, out: bytearray, data: bytes, room: int) -> None:
    if len(out) + len(data) > room:
        raise TooLargeError(f"more than {room} bytes")
    out += tag + _LENGTH.pack(len(data)) + data


def _write_int(out: bytearray, value: int, opaque: Any, room: int, depth: int) -> None:
    bits = int.bit_length(value)
    if bits < 64:
        out += b"i" + _SMALL.pack(value)
    elif bits // 8 > room:
        raise TooLargeError(f"more than {room} bytes")
    else:
        _write_bytes(b"I", out, int.to_bytes(value, bits // 8 + 1, "big", signed=True), room)


def _write_text(out: bytearray, value: str, opaque: Any, room: int, depth: int) -> None:
    if str.__len__(value) > room:
        raise TooLargeError(f"more than {room} bytes")
    _write_bytes(b"s", out, str.encode(value, "utf-8", "surrogatepass"), room)


def _write_raw(out: bytearray, value: bytes, opaque: Any, room: int, depth: int) -> None:
    if bytes.__len__(value) > room:
        raise TooLargeError(f"more than {room} bytes")
    _write_bytes(b"b", out, bytes.__getitem__(value, slice(None)), room)


def _write_dict(out: bytearray, value: dict[Any, Any], opaque: Any, room: int, depth: int) -> None:
    keys = _hashable(dict.keys(value), opaque)
    _write_items(b"d", out, itertools.chain.from_iterable(zip(keys, dict.values(value), strict=True)), opaque, room, depth)


def _hashable(keys: Iterable[Any], opaque: Callable[[Any], Token] | None) -> Iterator[Any]:
    """Keys, those with a token in their place that cannot be keys as their plain bases: lists that can be hashed, for instance."""
    for key in keys:
        yield opaque(key) if opaque is not None and issubclass(type(key), _UNHASHABLE) else key


def _write_range(out: bytearray, value: range, opaque: Any, room: int, depth: int) -> None:
    _write_items(b"r", out, (value.start, value.stop, value.step), opaque, room, depth)


def _write_token(out: bytearray, value: Token, opaque: Any, room: int, depth: int) -> None:
    _write_items(b"o", out, (value.number, bool(value.truth), value.type_name[:200]), opaque, room, depth)


_UNHASHABLE = (list, dict, set, bytearray, collections.deque)
_CONSTANTS = {ord("N"): None, ord("T"): True, ord("F"): False}
_SMALL_INT, _REAL, _IMAGINARY, _TOKEN = b"ifco"
_RAW: dict[int, Callable[[bytes], Any]] = {
    ord("s"): lambda part: part.decode("utf-8", "surrogatepass"),
    ord("b"): bytes,
    ord("I"): lambda part: int.from_bytes(part, "big", signed=True),
}
_WRITERS: dict[type, Callable[..., None]] = {
    type(None): lambda out, value, *rest: out.extend(b"N"),
    bool: lambda out, value, *rest: out.extend(b"T" if value else b"F"),
    int: _write_int,
    float: lambda out, value, *rest: out.extend(b"f" + _FLOAT.pack(value)),
    complex: lambda out, value, *rest: out.extend(b"c" + _COMPLEX.pack(complex.real.__get__(value), complex.imag.__get__(value))),
    str: _write_text,
    bytes: _write_raw,
    list: lambda out, value, *rest: _write_items(b"l", out, list.__iter__(value), *rest),
    tuple: lambda out, value, *rest: _write_items(b"t", out, tuple.__iter__(value), *rest),
    set: lambda out, value, opaque, *rest: _write_items(b"e", out, _hashable(set.__iter__(value), opaque), opaque, *rest),
    frozenset: lambda out, value, opaque, *rest: _write_items(b"z", out, _hashable(frozenset.__iter__(value), opaque), opaque, *rest),
    dict: _write_dict,
    range: _write_range,
    type({}.keys()): lambda out, value, *rest: _write_items(b"k", out, value, *rest),
    type({}.values()): lambda out, value, *rest: _write_items(b"v", out, value, *rest),
    type({}.items()): lambda out, value, *rest: _write_items(b"m", out, value, *rest),
    Token: _write_token,
}


def decode(data: bytes | memoryview, token: Callable[[Token], Any] | None = None, depth: int = MAX_DEPTH) -> Any:
    """The value that `encode` wrote.

    Args:
        data: bytes from anyone.
        token: what stands for a token: the value behind it, at the process that holds that; left out, the token.
        depth: of containers within each other, at most.

    Raises:
        MalformedError: anything that `encode` does not write.
        MemoryError: the value does not fit into memory.
    """
    try:
        value, end = _read(bytes(data), 0, token, depth + 1)
    except (struct.error, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, ImportError) as error:
        raise MalformedError(f"not a value: {type(error).__name__}") from error
    if end != len(data):
        raise MalformedError("bytes after the value")
    return value


def _read(data: bytes, at: int, token: Callable[[Token], Any] | None, depth: int) -> tuple[Any, int]:
    if depth == 0:
        raise MalformedError("nested too deep")
    tag = data[at]
    at += 1
    if tag == _SMALL_INT:
        return _SMALL.unpack_from(data, at)[0], at + 8
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == _REAL:
        return _FLOAT.unpack_from(data, at)[0], at + 8
    if tag == _IMAGINARY:
        return complex(*_COMPLEX.unpack_from(data, at)), at + 16
    (count,) = _LENGTH.unpack_from(data, at)
    at += 4
    if count > len(data) - at:
        raise MalformedError("cut off")
    if tag in _RAW:
        return _RAW[tag](data[at : at + count]), at + count
    build = _BUILDERS.get(tag)
    if build is None:
        raise MalformedError("unknown kind of value")
    items = []
    for _ in range(count):
        item, at = _read(data, at, token, depth - 1)
        items.append(item)
    value = build(items)
    return (token(value) if token and tag == _TOKEN else value), at


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _standard(items: list[Any]) -> Any:
    name, parts = items
    return standard.built(name, parts)


def _token(items: list[Any]) -> Token:
    number, truth, type_name = items
    if (type(number), type(truth), type(type_name)) != (int, bool, str):
        raise MalformedError("not a token")
    return Token(number, truth, type_name)


_BUILDERS: dict[int, Callable[[list[Any]], Any]] = {
    ord("l"): list,
    ord("t"): tuple,
    ord("e"): set,
    ord("z"): frozenset,
    ord("d"): _pairs,
    ord("g"): iter,
    ord("r"): lambda items: range(*items),
    ord("k"): lambda items: dict.fromkeys(items).keys(),
    ord("v"): lambda items: dict(enumerate(items)).values(),
    ord("m"): lambda items: dict(items).items(),
    ord("o"): _token,
    ord("x"): _standard,
}
