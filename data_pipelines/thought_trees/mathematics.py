"""The grader of mathematics: numbers exactly, everything else by math-verify."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from align.errors import AlignError
from data_pipelines.thought_trees.graders import Fields, Number

_NUMBER = re.compile(
    r"(-?)\s*\$?\s*(-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?)\s*(?:%|percent)?(?:\s+(?!hundred|thousand|million|billion|trillion|dozen)[a-zA-Z]+){0,3}"
)
_WORDS = re.compile(r"(?:\\(?:text|mathrm|textbf)\{)?([A-Za-z][A-Za-z' -]{2,})\}?")
_LATEX_BLANKS = re.compile(r"\\[!,;: ]|~")


class Maths(Number):
    """Answers as they stand in GSM8K and MATH (arXiv 2103.03874): numbers with or without a unit, LaTeX, sets, intervals, equations, words.

    Steps: their equations must hold, as for `number`. Equality of what is no plain number is math-verify's
    (github.com/huggingface/Math-Verify), which comes with `pip install 'align-preferences[eval]'`.
    """

    def canonical(self, answer: str, fields: Fields) -> str | None:
        r"""A number exactly, words in lower case, another expression in sympy's writing; None where it is nothing of the kind.

        >>> maths = Maths()
        >>> maths.canonical("$1,250.50", {}), maths.canonical(r"\boxed{\dfrac{3}{6}}.", {}), maths.canonical(r"\text{East}", {})
        ('2501/2', '1/2', 'east')
        """
        plain = unboxed(answer)
        number, words = _number(plain), _words(plain)
        if number is not None or words is not None:
            return words if number is None else str(number)
        parsed = _parsed(plain)
        return str(parsed[0]) if parsed else None

    def is_right(self, answer: str | None, gold: Sequence[str], fields: Fields) -> bool:
        r"""Whether a stated answer equals one of the gold answers.

        >>> maths = Maths()
        >>> maths.is_right("0.5", [r"\frac{1}{2}"], {}), maths.is_right("x = 4", ["4"], {}), maths.is_right(None, ["4"], {})
        (True, True, False)
        """
        if answer is None:
            return False
        mine = unboxed(answer)
        return any(_equal(mine, unboxed(one)) for one in gold)


def unboxed(answer: str) -> str:
    r"""What the last \boxed{} of an answer holds, or what stands in braces at its beginning; else the answer without dollars and full stop.

    >>> unboxed(r"so it is $\boxed{\frac{1}{2}}$."), unboxed("{3} apples"), unboxed("$7$.")
    ('\\frac{1}{2}', '3', '7')
    """
    start = max(answer.rfind("\\boxed{"), answer.rfind("\\fbox{"))
    place = answer.index("{", start) if start >= 0 else 0 if answer.startswith("{") else None
    if place is not None:
        depth = 0
        for end in range(place, len(answer)):
            depth += {"{": 1, "}": -1}.get(answer[end], 0)
            if depth == 0:
                return answer[place + 1 : end].strip()
    return answer.strip().rstrip(".").strip().strip("$").strip()


def _equal(mine: str, gold: str) -> bool:
    numbers = _number(mine), _number(gold)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _words(gold) is not None:
        return _words(mine) == _words(gold)
    left, right = _parsed(gold), _parsed(mine)
    return bool(left and right and _math_verify().verify(left, right, timeout_seconds=_seconds()))


def _number(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(_LATEX_BLANKS.sub("", text).replace("\\$", "$").replace("\\%", "%").strip())
    try:
        return None if match is None else Fraction((match.group(1) + match.group(2)).replace(",", "").replace("--", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _words(text: str) -> str | None:
    match = _WORDS.fullmatch(text)
    return " ".join(match.group(1).lower().split()) if match else None


def _parsed(text: str) -> Any:
    verify = _math_verify()
    configs = [verify.LatexExtractionConfig(), verify.ExprExtractionConfig()]
    return verify.parse(f"${text}$", extraction_config=configs, parsing_timeout=_seconds())


def _seconds() -> int | None:
    """math-verify bounds its time by a signal, which only the main thread can have."""
    return 5 if threading.current_thread() is threading.main_thread() else None


def _math_verify() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise AlignError("the grader 'maths' needs math-verify: pip install 'align-preferences[eval]'") from error
    return math_verify
