"""The three forms of tests. Whatever a benchmark looks like, it becomes one of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal

from align.errors import AlignError
from data_pipelines.code_execution.sandbox.inside.assertions import prepare
from data_pipelines.code_execution.sandbox.inside.codec import encode

TOLERANCE = 1e-6
"""Of numbers with a fraction, relative or absolute, where nothing else is said."""


@dataclass(frozen=True)
class Assertions:
    """Test code with assertions that call the program's functions (HumanEval, MBPP).

    Attributes:
        code: Python, run unchanged.
        entry_point: the function that is asked for; None: whatever the tests call.
        support: Python that the tests may use and no program may replace: the helpers that a problem brings.
        candidate: hand the entry point over under the name `candidate`, as HumanEval's `check` wants it.
    """

    code: str
    entry_point: str | None = None
    support: str = ""
    candidate: bool = False

    def __post_init__(self) -> None:
        """Raises AlignError: the tests do not parse, assert nothing, or need an entry point that is not named."""
        _, lines, names, _ = _checked("tests", self.code)
        _checked("support", self.support)
        if not lines:
            raise AlignError("the tests have no assertion: a program could not fail them")
        if self.candidate and not self.entry_point:
            raise AlignError("the tests are to be handed an entry point, but none is named")
        if self.entry_point and not self.candidate and self.entry_point not in names:
            raise AlignError(f"the tests never use the entry point '{self.entry_point}'")

    def as_message(self) -> dict[str, Any]:
        """For the tester."""
        return {"kind": "assertions", **vars(self)}


@dataclass(frozen=True)
class Calls:
    """Arguments and expected values (LiveCodeBench's functional tests, APPS with a function name).

    Attributes:
        entry_point: a function, or "Class().method".
        cases: (arguments, expected value) each, plain values.
        tolerance: by how much a value may differ, relatively or absolutely, where a float is expected; None: as the sandbox says.
        rule: "apps": an expected list of one value stands for the value, too, as many records of APPS have it.
    """

    entry_point: str
    cases: tuple[tuple[tuple[Any, ...], Any], ...]
    tolerance: float | None = None
    rule: Literal["equal", "apps"] = "equal"

    def __post_init__(self) -> None:
        """Raises AlignError: no entry point, no cases, values that are not plain, or a tolerance below 0."""
        if not self.entry_point:
            raise AlignError("the problem has no entry point: which function is to be called?")
        _needs_cases(self.cases)
        check_tolerance(self.tolerance)
        try:
            encode(self.cases)
        except (TypeError, ValueError) as error:
            raise AlignError(f"a test case of '{self.entry_point}' cannot be handed over: {error}") from error

    def as_message(self) -> dict[str, Any]:
        """For the tester."""
        return {"kind": "calls", **vars(self)}


@dataclass(frozen=True)
class Outputs:
    """Inputs and expected outputs of a whole program (APPS, LiveCodeBench).

    Attributes:
        cases: (standard input, expected standard output) each.
        tolerance: by how much a number may differ, relatively or absolutely, where one with a fraction is expected; None: as the sandbox
            says.
    """

    cases: tuple[tuple[str, str], ...]
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Raises AlignError: no cases, something else than text, or a tolerance below 0."""
        _needs_cases(self.cases)
        check_tolerance(self.tolerance)
        for number, case in enumerate(self.cases):
            if len(case) != 2 or not all(isinstance(text, str) for text in case):
                raise AlignError(f"test case {number}: expected the text of standard input and the text that is to be written")

    def as_message(self) -> dict[str, Any]:
        """For the tester."""
        return {"kind": "outputs", **vars(self)}


Tests = Assertions | Calls | Outputs


def check_tolerance(tolerance: float | None) -> None:
    """Raises AlignError: a tolerance that is no number from 0 on."""
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise AlignError(f"the tolerance is {tolerance}: expected a number from 0 on, such as 1e-6")


def _checked(name: str, code: str) -> tuple[CodeType, list[int], frozenset[str], str]:
    try:
        return prepare(code)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise AlignError(f"the {name} do not parse: {getattr(error, 'msg', error)}{line}") from error


def _needs_cases(cases: Sequence[Any]) -> None:
    if not cases:
        raise AlignError("the problem has no test cases: a program could not fail them")
