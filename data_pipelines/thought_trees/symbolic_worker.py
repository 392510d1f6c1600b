"""The process behind `symbolic`: questions and answers are JSON lines; the system ends it where one takes too long."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any

SECONDS = 3.0
"""CPU time for one question; twenty times that on the clock, as the machine may be busy."""
MEMORY = 4 * 2**30
CLOSE = 1e-6
"""Relative difference up to which an inexact number equals an exact one."""


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted program ends this one by closing its pipe
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    sys.stdout = sys.stderr  # nothing that a library prints may stand among the answers
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401  # takes a second or more, which is no question's time

    sys.setrecursionlimit(4000)
    for line in sys.stdin:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)
        try:
            answer = canonical(question["canonical"]) if "canonical" in question else equal(question["mine"], question["gold"])
        except (Exception, RecursionError, MemoryError):
            answer = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")


def parsed(text: str) -> list[Any]:
    """math-verify's reading of a whole text as LaTeX; empty where it is none."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig

    normal = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False)
    config = [math_verify.LatexExtractionConfig(normalization_config=normal)]
    return list(
        math_verify.parse(
            f"${text}$", extraction_config=config, parsing_timeout=None, fallback_mode="no_fallback", extraction_mode="first_match"
        )
    )


def equal(mine: str, gold: str) -> bool:
    """math-verify's verdict; numbers must also agree relative to their size, as it rounds to six decimals."""
    import math_verify

    left, right = parsed(gold), parsed(mine)
    if not left or not right:
        return False
    verified = math_verify.verify(left, right, timeout_seconds=None, allow_set_relation_comp=True)
    return bool(verified and close(left[0], right[0])) or _same_curve(left[0], right[0])


def _same_curve(gold: Any, mine: Any) -> bool:
    """Whether equations of two or more variables are a multiple of each other: "2x - y = 4" and "y - 2x + 4 = 0"."""
    from sympy import Eq, simplify

    if not (isinstance(gold, Eq) and isinstance(mine, Eq) and gold.free_symbols == mine.free_symbols and len(gold.free_symbols) > 1):
        return False
    ratio = simplify((gold.lhs - gold.rhs) / (mine.lhs - mine.rhs))
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def close(gold: Any, mine: Any) -> bool:
    """Whether numbers agree relative to their size, and so those in tuples, sets, intervals, matrices and equations; True for the rest."""
    from sympy import Eq, FiniteSet, Interval, MatrixBase, Tuple, default_sort_key

    gold, mine = _right_side(gold, mine), _right_side(mine, gold)
    if isinstance(gold, MatrixBase) and isinstance(mine, MatrixBase):
        return all(close(g, m) for g, m in zip(gold.flat(), mine.flat(), strict=True))
    parts = []
    for value in (gold, mine):
        if isinstance(value, FiniteSet):
            parts.append(sorted(value.args, key=lambda part: (_number(part) is None, _sort_number(part), default_sort_key(part))))
        elif isinstance(value, (Tuple, Eq)):
            parts.append(list(value.args))
        elif isinstance(value, Interval):
            parts.append([value.start, value.end])
        else:
            parts.append([])
    if parts[0] and len(parts[0]) == len(parts[1]):
        return all(close(g, m) for g, m in zip(*parts, strict=True))
    numbers = _number(gold), _number(mine)
    return None in numbers or _near(gold, mine, *numbers)


def _right_side(value: Any, other: Any) -> Any:
    """What an equation says, where the other answer is no equation."""
    from sympy import Eq

    return value.rhs if isinstance(value, Eq) and not isinstance(other, Eq) else value


def _number(value: Any) -> Any:
    """The value with forty digits; None where it is no finite number."""
    try:
        number = value.doit().evalf(40)
        return number if number.is_number and number.is_finite else None
    except Exception:
        return None


def _sort_number(value: Any) -> float:
    number = _number(value)
    return float(number) if number is not None and number.is_real else 0.0


def _near(gold: Any, mine: Any, gold_number: Any, mine_number: Any) -> bool:
    from sympy import Float

    exact = gold.doit(), mine.doit()
    if all(part.is_Rational for part in exact):
        return bool(exact[0] == exact[1])
    inexact = any(part.has(Float) for part in (gold, mine))
    size = max(abs(gold_number), abs(mine_number))
    return bool(abs(gold_number - mine_number) <= (CLOSE if inexact else 1e-25) * size)


def canonical(text: str) -> str | None:
    """The expression in sympy's writing, expanded where it can be."""
    expressions = parsed(text)
    if not expressions:
        return None
    expression = expressions[0]
    try:
        return str(expression.doit().expand())
    except Exception:
        return str(expression)


if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules are no libraries
    main()
