"""When what a program wrote or returned is what was expected: equal, and close where a number with a fraction was expected.

As the evaluators of APPS and LiveCodeBench have it: lines without the blanks around them, numbers by their value ("1" is "1.0"), tuples
as lists. Beyond these, a number with a fraction may differ by the tolerance, relative or absolute. Whole numbers, words, and digits with
zeros before them are exact.
"""

from __future__ import annotations

import math
import numbers
import re
from decimal import Decimal
from typing import Any

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[+-]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?|[+-]?[1-9][eE][+-][0-9]{1,5}")
"""A number with a point, or with a signed exponent as Python and C write it. "1e5" and "007" are words: they may be names."""
_MARKS = re.compile(r"([\[\](){},;])")


def same_output(written: str, expected: str, tolerance: float) -> bool:
    """Whether two outputs are the same, line by line and word by word, blanks at the ends aside.

    >>> same_output("1.0  2\\n", "1 2", 1e-6), same_output("1\\n2", "1 2", 1e-6), same_output("x 0.3333333333", "x 0.333333", 1e-6)
    (True, False, True)
    """
    mine, theirs = ([line.strip() for line in text.strip().splitlines()] for text in (written, expected))
    return len(mine) == len(theirs) and all(
        one == other or _same_line(one, other, tolerance) for one, other in zip(mine, theirs, strict=True)
    )


def _same_line(one: str, other: str, tolerance: float) -> bool:
    mine, theirs = ([part for word in line.split() for part in (*_MARKS.split(word), " ")] for line in (one, other))
    return len(mine) == len(theirs) and all(a == b or _same_number(a, b, tolerance) for a, b in zip(mine, theirs, strict=True))


def _same_number(one: str, other: str, tolerance: float) -> bool:
    """Whether two words are the same number, or one that is close to a number with a fraction."""
    if not all(_WHOLE.fullmatch(word) or _REAL.fullmatch(word) for word in (one, other)):
        return False
    if Decimal(one) == Decimal(other):
        return True
    return _REAL.fullmatch(other) is not None and _close(float(one), float(other), tolerance)


def _close(one: float, other: float, tolerance: float) -> bool:
    return math.isfinite(one) and math.isfinite(other) and abs(one - other) <= tolerance * max(1.0, abs(other))


def same_value(value: Any, expected: Any, tolerance: float) -> bool:
    """Whether a value that a program returned is the expected one, within lists, tuples and dicts too.

    >>> same_value((1, 0.1 + 0.2), [1, 0.3], 1e-6), same_value(1.0000001, 1, 1e-6)
    (True, False)
    """
    if isinstance(expected, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(expected):
            return False
        return all(same_value(one, other, tolerance) for one, other in zip(value, expected, strict=True))
    if isinstance(expected, dict):
        if not isinstance(value, dict) or value.keys() != expected.keys():
            return False
        return all(same_value(value[key], other, tolerance) for key, other in expected.items())
    if bool(value == expected):
        return True
    if not isinstance(expected, float) or not _is_number(value):
        return False
    if math.isnan(expected):
        return bool(value != value)
    return _close(float(value), expected, tolerance)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)
