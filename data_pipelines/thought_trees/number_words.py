"""Numbers in words: "fourteen", "twenty-five", "two thousand five hundred and six", "three dozen"."""

from __future__ import annotations

import re

_UP_TO_NINETEEN = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: number for number, word in enumerate(_UP_TO_NINETEEN)} | {word: 10 * number for number, word in enumerate(_TENS, 2)}
MAGNITUDES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that multiply the number before them."""
_WORD = "|".join(sorted((*_VALUES, *MAGNITUDES), key=len, reverse=True))
_NUMBER = re.compile(
    rf"(?:(?P<a>an?)\s+(?=(?:{'|'.join(MAGNITUDES)})\b))?(?:{_WORD})(?:(?:[\s-]+|,?\s+and\s+)(?:{_WORD}))*"
    r"(?!-?[A-Za-z]|\s+and\s+an?\b|[\s-]+(?:half|halves|quarters?|thirds?|(?:four|fif|six|seven|eigh|nin|ten)ths?)\b)",
    re.IGNORECASE,
)


def number_in_words(text: str) -> tuple[int, int] | None:
    """The number that a text begins with, and where it ends; None where it begins with none, or with several side by side.

    >>> number_in_words("twenty-five apples"), number_in_words("One hundred and five"), number_in_words("five six")
    ((25, 11), (105, 20), None)
    >>> number_in_words("two and a half"), number_in_words("one third") is None
    (None, True)
    """
    match = _NUMBER.match(text)
    if match is None:
        return None
    total, group, last = 0, 1 if match["a"] else 0, None
    for word in re.findall(r"[a-z]+", match.group().lower()):
        if word in _VALUES:
            value = _VALUES[word]
            if last is not None and not (last >= 100 or (20 <= last < 100 and 0 < value < 10)):
                return None
            group, last = group + value, value
        elif word in ("dozen", "hundred"):
            if group == 0:
                return None
            group, last = group * MAGNITUDES[word], MAGNITUDES[word]
        elif word in MAGNITUDES:
            if group == 0:
                return None
            total, group, last = total + group * MAGNITUDES[word], 0, MAGNITUDES[word]
    return total + group, match.end()
