"""Numbers as people write them: with thousands separators, as mixed numbers, in words, with a magnitude, a percent sign, a unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from data_pipelines.thought_trees.number_words import MAGNITUDES, number_in_words
from data_pipelines.thought_trees.units import COUNTED, unit_name

_CURRENCY = r"(?:US\$|[$€£¥₹₩₽₪]|(?:USD|EUR|GBP|JPY|INR|Rs\.?)(?![A-Za-z]))"
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?! ?\d)|\d+)"
_TEN_TO = r"\s*(?:\\times|\\cdot|×|\*|x|·)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,3})\s*\}|\(\s*([-+]?\d{1,3})\s*\)|([-+]?\d{1,3}))"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<sign2>[-+]?)\s*(?:"
    rf"(?P<mixed>{_WHOLE})(?:\s*\\frac\{{(?P<over>\d+)\}}\{{(?P<under>\d+)\}}|\s+(?P<over2>\d+)\s*/\s*(?P<under2>\d+)(?![\d/]))"
    r"|\\frac\{\s*(?P<top_sign>[-+]?)\s*(?P<top>\d+(?:\.\d+)?)\s*\}\{\s*(?P<bottom>-?\d+(?:\.\d+)?)\s*\}"
    rf"|(?P<decimal>{_WHOLE}?)\.(?P<still>\d*)\\overline\{{(?P<repeated>\d+)\}}"
    rf"|(?P<plain>(?:{_WHOLE}(?:\.\d*)?|\.\d+))(?:\s*/\s*(?P<divisor>\d+)(?![\d.,]*\s*[\d(^_]))?(?:[eE](?P<e>[-+]?\d{{1,3}})(?!\d)|{_TEN_TO})?"
    r")"
)
_MAGNITUDES = MAGNITUDES | {"dozens": 12, "mn": 10**6, "bn": 10**9}
_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}  # "$5k": only after a currency sign, else they are variables
_MAGNITUDE = re.compile(r"\s*(" + "|".join(sorted(_MAGNITUDES, key=len, reverse=True)) + r")(?![A-Za-z])", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|(?:percent(?:age)?|per cent|pct)(?:\s+points?)?(?![A-Za-z]))")
_LONGEST = 400  # characters


@dataclass(frozen=True)
class Quantity:
    """A number with what stands beside it.

    Attributes:
        value: exactly; of "50%" it is 50.
        percent: a percent sign stands after it.
        unit: see `units.unit_name`; empty without one.
    """

    value: Fraction
    percent: bool = False
    unit: str = COUNTED


def quantity(text: str) -> Quantity | None:
    """The number that the whole text is; None where it is anything else.

    >>> quantity("1 1/2 cups"), quantity("-$1,250.50"), quantity("2 million")
    (Quantity(value=Fraction(3, 2), percent=False, unit='cup'), Quantity(value=Fraction(-2501, 2), percent=False, unit='dollar'), \
Quantity(value=Fraction(2000000, 1), percent=False, unit=''))
    >>> quantity("5 x"), quantity("5 10"), quantity("10 more than x"), quantity("3/0")
    (None, None, None, None)
    """
    if len(text) > _LONGEST:
        return None
    read = leading_number(text)
    if read is None:
        return None
    value, currency, rest = read
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    if not rest.strip():
        return Quantity(value, bool(percent), currency)
    unit = unit_name(rest)
    if unit is None:
        return None
    return Quantity(value, bool(percent), unit.replace("unit", currency, 1) if currency and unit.startswith("unit/") else currency or unit)


def leading_number(text: str) -> tuple[Fraction, str, str] | None:
    """The number that a text begins with, its magnitude taken into it: value, unit of the currency sign before it, the rest.

    >>> leading_number("€2.5 million in all")
    (Fraction(2500000, 1), 'euro', ' in all')
    """
    text = text.strip()
    match = _NUMBER.match(text)
    if match is None:
        named = number_in_words(text)
        return (Fraction(named[0]), "", text[named[1] :]) if named else None
    value = _value(match)
    if value is None:
        return None
    rest = text[match.end() :]
    currency = unit_name(" " + match["currency"]) or "" if match["currency"] else ""
    magnitude = _MAGNITUDE.match(rest)
    if magnitude:
        return value * _MAGNITUDES[magnitude.group(1).lower()], currency, rest[magnitude.end() :]
    if currency and rest[:1] in _LETTERS and not rest[1:2].isalpha():
        return value * _LETTERS[rest[0]], currency, rest[1:]
    return value, currency, rest


def _value(match: re.Match[str]) -> Fraction | None:
    """The number that `_NUMBER` matched; None where a denominator is zero."""
    part = {name: (text or "").replace(",", "").replace(" ", "") for name, text in match.groupdict().items()}
    try:
        if part["mixed"]:
            value = Fraction(part["mixed"]) + Fraction(int(part["over"] or part["over2"]), int(part["under"] or part["under2"]))
        elif part["top"]:
            value = Fraction(part["top_sign"] + part["top"]) / Fraction(part["bottom"])
        elif part["repeated"]:
            still, repeated = part["still"], part["repeated"]
            shift = 10 ** len(still)
            value = Fraction(f"{part['decimal'] or 0}.{still or 0}") + Fraction(int(repeated), shift * (10 ** len(repeated) - 1))
        else:
            exponent = part["e"] or next((text for text in match.groups()[-3:] if text), "0")
            value = Fraction(part["plain"]) * Fraction(10) ** int(exponent) / int(part["divisor"] or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return -value if (part["sign"] == "-") != (part["sign2"] == "-") else value


def same_quantity(mine: Quantity, gold: Quantity) -> bool:
    """Whether two numbers are equal, as they stand or with a percent sign taken as a hundredth; two different measures never are.

    >>> same_quantity(Quantity(Fraction(50), percent=True), Quantity(Fraction(1, 2))), same_quantity(Quantity(Fraction(5), unit="meter"), \
Quantity(Fraction(5), unit="mile"))
    (True, False)
    """
    if mine.unit and gold.unit and not _same_unit(mine.unit, gold.unit):
        return False
    if equal_numbers(mine.value, gold.value):
        return True
    if mine.percent == gold.percent:
        return False
    return equal_numbers(mine.value / (100 if mine.percent else 1), gold.value / (100 if gold.percent else 1))


def _same_unit(mine: str, gold: str) -> bool:
    """Whether two units are one; the shorter may leave out per what ("dollar/hour") or which degrees."""
    return mine == gold or mine in re.split("[/ ]", gold, maxsplit=1)[:1] or gold in re.split("[/ ]", mine, maxsplit=1)[:1]


def equal_numbers(mine: Fraction, gold: Fraction) -> bool:
    """Whether numbers are equal; a decimal stands for a fraction without an end where it has six right digits.

    >>> equal_numbers(Fraction("0.333333"), Fraction(1, 3)), equal_numbers(Fraction("0.33"), Fraction(1, 3))
    (True, False)
    """
    if mine == gold:
        return True
    if _ends(mine) == _ends(gold):
        return False
    return abs(mine - gold) <= abs(gold) / 10**6


def _ends(number: Fraction) -> bool:
    """Whether its decimal has an end."""
    rest = number.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1
