"""What comes out of an execution, and what a program may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from align.files import writable

Kind = Literal[
    "pass", "wrong_answer", "syntax_error", "import_error", "exception", "timeout", "memory", "output_limit", "crashed", "forbidden",
    "harness_error",
]  # fmt: skip
LONGEST_DETAIL = 200  # characters
Level = Literal["namespaces", "filters", "limits"]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of CPU time, for all tests of a program together; on stdin → stdout tests for each. A program that sleeps is ended
            after twice as much wall clock, one that does not get the CPU after ten times as much.
        memory: bytes of address space.
        output: bytes on standard output and on standard error, each.
        file: bytes of all files it writes together.
        files: open at once.
        threads: at once.
    """

    seconds: float = 10.0
    memory: int = 1 << 30
    output: int = 1 << 20
    file: int = 16 << 20
    files: int = 64
    threads: int = 32


@dataclass(frozen=True)
class Verdict:
    """What became of a program, or of one test.

    Attributes:
        kind: "harness_error" says nothing about the program and never becomes a preference.
        detail: exception class, signal, system call, …
    """

    kind: Kind
    detail: str = ""

    def __eq__(self, other: object) -> bool:
        """A verdict equals one of the same kind and detail, and the name of its kind.

        >>> Verdict("pass") == "pass", Verdict("exception", "ValueError") == "exception", Verdict("timeout") == "pass"
        (True, True, False)
        """
        if isinstance(other, str):
            return self.kind == other
        return isinstance(other, Verdict) and (self.kind, self.detail) == (other.kind, other.detail)

    def __hash__(self) -> int:
        return hash(self.kind)

    @property
    def passed(self) -> bool:
        """Whether it is a pass."""
        return self.kind == "pass"

    def __str__(self) -> str:
        return f"{self.kind}({self.detail})" if self.detail else self.kind

    @classmethod
    def parse(cls, text: str) -> Verdict:
        """Read what `str` wrote.

        >>> Verdict.parse("exception(ValueError)")
        Verdict(kind='exception', detail='ValueError')
        """
        kind, _, detail = text.partition("(")
        return cls(kind, detail.removesuffix(")"))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TestResult:
    """One test that was reached: the line of its assertion, or the number of its case, and its verdict."""

    where: int
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether the test passes."""
        return self.verdict.passed

    __test__ = False  # pytest collects what begins with Test


@dataclass(frozen=True)
class ExecutionResult:
    """A program judged by its tests.

    Attributes:
        verdict: of the program.
        tests: those that were reached, in order.
        count: how many there are.
        seconds: from the order to the verdict.
        isolation: the level at which it ran.
        output, errors: the last 4,000 bytes of what it wrote.
    """

    verdict: Verdict
    tests: tuple[TestResult, ...]
    count: int
    seconds: float
    isolation: Level
    output: str = ""
    errors: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program passes."""
        return self.verdict.passed

    @property
    def share(self) -> float:
        """Share of the tests that hold, 0 to 1; those not reached do not."""
        if self.passed:
            return 1.0
        return sum(test.passed for test in self.tests) / max(1, self.count)


def _verdict(kind: Kind, detail: str) -> Verdict:
    """A verdict whose detail, a name that the program may have chosen, can be written and read."""
    return Verdict(kind, writable(detail[:LONGEST_DETAIL]))


def read_result(answer: dict[str, Any], isolation: Level) -> ExecutionResult:
    """A tester's answer as a result."""
    return ExecutionResult(
        _verdict(*answer["verdict"]),
        tuple(TestResult(where, _verdict(*verdict)) for where, verdict in answer["tests"]),
        answer["count"],
        answer["seconds"],
        isolation,
        answer["output"].decode("utf-8", "replace"),
        answer["errors"].decode("utf-8", "replace"),
    )
