"""Values of the standard library and of numpy as plain parts, and back. Rebuilding one calls its own type's constructor and nothing else.

Types are recognised by name, so that neither process has to import what no program uses. A subclass arrives as the type listed here
that comes first among its bases. What cannot be rebuilt exactly, or would be dear to compute with, has no parts: it stays where it is.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import datetime
import importlib
import keyword
import math
import operator
import re
from collections.abc import Callable
from typing import Any

_MOST_BITS = 400_000  # of an integer in a fraction: its greatest common divisor takes milliseconds
_MOST_DIGITS = 100_000  # of a decimal, before or after the point
_MOST_FIELDS = 1_000
_NUMPY_TYPE = re.compile(r"[<>|=][biufcSUmM][0-9]{1,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")
_FACTORIES: dict[str, type] = {kind.__name__: kind for kind in (int, float, complex, bool, str, bytes, list, tuple, set, frozenset, dict)}

Parts = tuple[Any, ...]


class TooLargeError(ValueError):
    """A value is nested too deep, or has too many bytes."""


class OpaqueError(Exception):
    """The tests need what stayed in the program, so that they cannot judge it."""


def reduced(value: Any, room: int) -> tuple[str, Parts] | None:
    """A value's type, by the name that `built` knows, and its parts; None for values of any other type.

    Args:
        value: of any type.
        room: bytes that an array may have.

    Raises:
        TooLargeError: it has more.

    >>> reduced(collections.deque([1, 2], 5), 100), reduced(object(), 100)
    (('deque', ([1, 2], 5)), None)
    """
    kind = type(value)
    for base in kind.__mro__:
        reduce = _REDUCERS.get((base.__module__, base.__name__))
        if reduce is not None:
            if reduce in _SIZED and value.nbytes > room:
                raise TooLargeError(f"more than {room} bytes")
            name, parts = base.__name__, reduce(value)
            return None if parts is None else (name, parts)
    fields = getattr(kind, "_fields", None) if issubclass(kind, tuple) else None
    if type(fields) is tuple and len(fields) == tuple.__len__(value) <= _MOST_FIELDS and all(map(_is_field, fields)):
        return "namedtuple", (kind.__name__, fields, tuple(tuple.__iter__(value)))
    return None


def built(name: str, parts: Parts) -> Any:
    """The value that `reduced` took apart.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError, ImportError, MemoryError, AttributeError: parts that `reduced` does not give.
    """
    types, build = _BUILDERS[name]
    if type(parts) is not tuple or len(parts) != len(types) or not all(map(isinstance, parts, types)):
        raise TypeError(f"not the parts of a {name}")
    return build(*parts)


_WITH_EXCEPTIONS = (
    "_csv", "_queue", "binascii", "csv", "dataclasses", "decimal", "graphlib", "io", "ipaddress", "json.decoder", "numpy.linalg", "queue",
    "re", "statistics", "struct", "xml.etree.ElementTree", "zoneinfo._common",
)  # fmt: skip
"""Modules whose exceptions tests catch. None is among them whose exceptions end tests or have them skipped, such as unittest."""


def exception(name: str) -> type[BaseException] | None:
    """A built-in exception by its name, one of the standard library by its module's name and its own; None for any other.

    >>> exception("KeyError"), exception("json.decoder.JSONDecodeError").__name__, exception("unittest.case.SkipTest")
    (<class 'KeyError'>, 'JSONDecodeError', None)
    """
    module, _, own = name.rpartition(".")
    kind = None
    if not module:
        kind = getattr(builtins, own, None)
    elif module in _WITH_EXCEPTIONS:
        with contextlib.suppress(ImportError):
            kind = getattr(importlib.import_module(module), own, None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None


# Numbers


def _decimal(value: Any) -> Parts | None:
    from decimal import Decimal

    text = Decimal.__str__(value)  # whatever a subclass makes of it
    return (text,) if _is_moderate(value, text) else None


def _build_decimal(text: str) -> Any:
    from decimal import Decimal

    if len(text) > 2 * _MOST_DIGITS:
        raise ValueError("too many digits")
    value = Decimal(text)
    if not _is_moderate(value, text):
        raise ValueError("too large or too small")
    return value


def _is_moderate(value: Any, text: str) -> bool:
    return len(text) < _MOST_DIGITS and (not value.is_finite() or abs(value.adjusted()) < _MOST_DIGITS)


def _fraction(value: Any) -> Parts | None:
    parts = (value.numerator, value.denominator)
    return parts if all(int.bit_length(part) <= _MOST_BITS for part in parts) else None


def _build_fraction(numerator: int, denominator: int) -> Any:
    from fractions import Fraction

    if max(map(int.bit_length, (numerator, denominator))) > _MOST_BITS:
        raise ValueError("too large")
    return Fraction(numerator, denominator)


class IntegerMember(int):
    """A member of an IntEnum: its integer, with what else a test may ask of it."""

    name: str
    value: int


class TextMember(str):
    """A member of a StrEnum: its text, with what else a test may ask of it."""

    name: str
    value: str


def _member(value: Any) -> Parts | None:
    name = str(value._name_)
    if isinstance(value, int):
        return name, int.__index__(value)
    return (name, str.__str__(value)) if isinstance(value, str) else None


def _build_member(name: str, plain: int | str) -> Any:
    member = IntegerMember(plain) if isinstance(plain, int) else TextMember(plain)
    vars(member).update(name=name, value=plain)
    return member


# Containers


def _pairs(value: dict[Any, Any]) -> list[Any]:
    return [part for pair in dict.items(value) for part in pair]


def _filled(empty: Any, parts: list[Any]) -> Any:
    dict.update(empty, zip(parts[::2], parts[1::2], strict=True))
    return empty


def _build_ordered(parts: list[Any]) -> Any:
    return collections.OrderedDict(zip(parts[::2], parts[1::2], strict=True))


def _default(value: Any) -> Parts:
    factory = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "")
    return _pairs(value), (name if name is None or _FACTORIES.get(name) is factory else "")


def _build_default(parts: list[Any], factory: str | None) -> Any:
    return _filled(collections.defaultdict(None if factory is None else _FACTORIES.get(factory, _unknown_default)), parts)


def _unknown_default() -> Any:
    raise OpaqueError("a default_factory of the program")


_named: dict[tuple[str, Parts], type[tuple[Any, ...]]] = {}


def _build_named(name: str, fields: Parts, values: Parts) -> Any:
    """A tuple with these fields. `collections.namedtuple` would compile code with the names in it."""
    if len(fields) != len(values) or len(set(fields)) != len(fields):
        raise ValueError("not a named tuple")
    if not all(map(_is_field, fields)):
        raise ValueError("not the fields of a named tuple")
    if len(_named) > 256:
        _named.clear()
    if (name, fields) not in _named:
        _named[name, fields] = _tuple_type(name, fields)
    return _named[name, fields](values)


def _is_field(name: Any) -> bool:
    """Whether a named tuple may call a field so: as a variable, or "_1" where what it was to be called is none."""
    if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
        return False
    return name[0] != "_" or name[1:].isdecimal()


def _tuple_type(name: str, fields: Parts) -> type[tuple[Any, ...]]:
    def shown(self: Any) -> str:
        return f"{name}({', '.join(f'{field}={value!r}' for field, value in zip(fields, self, strict=True))})"

    def replaced(self: Any, **changes: Any) -> Any:
        if unknown := changes.keys() - set(fields):
            raise ValueError(f"Got unexpected field names: {sorted(unknown)!r}")
        return type(self)(changes.get(field, value) for field, value in zip(fields, self, strict=True))

    members: dict[str, Any] = {field: property(operator.itemgetter(place)) for place, field in enumerate(fields)}
    members |= {"__slots__": (), "_fields": fields, "__repr__": shown, "_replace": replaced}
    return type(name, (tuple,), members | {"_asdict": lambda self: dict(zip(fields, self, strict=True))})


# Bytes


def _view(value: memoryview) -> Parts | None:
    return (value.tobytes(),) if value.format == "B" and value.ndim == 1 else None


# Dates and times


def _zone(value: Any) -> Any:
    """A fixed offset as days, seconds and microseconds; None for none; False where it follows a calendar of its own."""
    zone = value.tzinfo
    if zone is None:
        return None
    return _span(zone.utcoffset(None)) if type(zone) is datetime.timezone else False


def _span(value: datetime.timedelta) -> Parts:
    return value.days, value.seconds, value.microseconds


def _date(value: Any) -> Parts:
    return value.year, value.month, value.day


def _time(value: Any) -> Parts | None:
    zone = _zone(value)
    return None if zone is False else (value.hour, value.minute, value.second, value.microsecond, zone, value.fold)


def _datetime(value: Any) -> Parts | None:
    rest = _time(value)
    return None if rest is None else (*_date(value), *rest)


def _build_zone(days: int, seconds: int, microseconds: int) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(days, seconds, microseconds))


def _with_zone(kind: type) -> Callable[..., Any]:
    def build(*parts: Any) -> Any:
        *numbers, zone, fold = parts
        return kind(*numbers, None if zone is None else _build_zone(*zone), fold=fold)

    return build


# numpy


def _array(value: Any) -> Parts | None:
    if type(value).__name__ != "ndarray":  # a matrix, a masked array: as an array it would compute otherwise
        return None
    if value.dtype.hasobject:
        return ("O", value.shape, list(value.flat)) if value.dtype.kind == "O" else None
    return (value.dtype.str, value.shape, value.tobytes()) if _NUMPY_TYPE.fullmatch(value.dtype.str) else None


def _build_array(type_name: str, shape: Parts, data: Any) -> Any:
    import numpy

    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("not a shape")
    if type_name == "O":
        if type(data) is not list or math.prod(shape) != len(data):
            raise ValueError("not as many objects as the array holds")
        array = numpy.empty(len(data), dtype=object)
        for place, item in enumerate(data):
            array[place] = item
        return array.reshape(shape)
    kind = _numpy_type(type_name)
    if type(data) is not bytes or kind.itemsize == 0 or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError("not the bytes of this array")
    _check_truths(kind, data)
    return numpy.ndarray(shape, kind, data).copy()


def _scalar(value: Any) -> Parts | None:
    data = value.tobytes()[: value.dtype.itemsize]  # numpy.str_("") has four bytes of its none
    return (value.dtype.str, data) if _NUMPY_TYPE.fullmatch(value.dtype.str) else None


def _build_scalar(type_name: str, data: bytes) -> Any:
    import numpy

    kind = _numpy_type(type_name)
    if len(data) != kind.itemsize:
        raise ValueError("not the bytes of this scalar")
    _check_truths(kind, data)
    return numpy.ndarray((), kind, data)[()] if data else kind.type()


def _numpy_type(name: str) -> Any:
    import numpy

    if not _NUMPY_TYPE.fullmatch(name):
        raise ValueError("not a type of plain numbers, text or times")
    return numpy.dtype(name)


def _check_truths(kind: Any, data: bytes) -> None:
    if kind.kind == "b" and data.strip(b"\0\1"):
        raise ValueError("a truth that is neither true nor false")


_REDUCERS: dict[tuple[str, str], Callable[[Any], Parts | None]] = {
    ("builtins", "bytearray"): lambda value: (bytes(value),),
    ("builtins", "memoryview"): _view,
    ("collections", "deque"): lambda value: (list(collections.deque.__iter__(value)), value.maxlen),
    ("collections", "Counter"): lambda value: (_pairs(value),),
    ("collections", "OrderedDict"): lambda value: ([part for pair in collections.OrderedDict.items(value) for part in pair],),
    ("collections", "defaultdict"): _default,
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): _fraction,
    ("enum", "Enum"): _member,
    ("datetime", "datetime"): _datetime,
    ("datetime", "date"): _date,
    ("datetime", "time"): _time,
    ("datetime", "timedelta"): _span,
    ("datetime", "timezone"): lambda value: _span(value.utcoffset(None)),
    ("numpy", "ndarray"): _array,
    ("numpy", "generic"): _scalar,
}
_SIZED = (_view, _array, _scalar)
_SPAN = (int, int, int)
_CLOCK = (int, int, int, int, (tuple, type(None)), int)
_BUILDERS: dict[str, tuple[tuple[Any, ...], Callable[..., Any]]] = {
    "bytearray": ((bytes,), bytearray),
    "memoryview": ((bytes,), memoryview),
    "deque": ((list, (int, type(None))), collections.deque),
    "Counter": ((list,), lambda parts: _filled(collections.Counter(), parts)),
    "OrderedDict": ((list,), _build_ordered),
    "defaultdict": ((list, (str, type(None))), _build_default),
    "Decimal": ((str,), _build_decimal),
    "Fraction": ((int, int), _build_fraction),
    "Enum": ((str, (int, str)), _build_member),
    "datetime": ((int, int, int, *_CLOCK), _with_zone(datetime.datetime)),
    "date": ((int, int, int), datetime.date),
    "time": (_CLOCK, _with_zone(datetime.time)),
    "timedelta": (_SPAN, datetime.timedelta),
    "timezone": (_SPAN, _build_zone),
    "ndarray": ((str, tuple, (bytes, list)), _build_array),
    "generic": ((str, bytes), _build_scalar),
    "namedtuple": ((str, tuple, tuple), _build_named),
}
"""For each name the types of its parts, and what puts them together. A range is no list: it would be long without having been sent."""
