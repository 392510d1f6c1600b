"""Problems: what a model is asked to program, and the tests that its program must pass, whatever benchmark they come from."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from align.errors import AlignError, nearest
from align.trees import Rejected, check_rejected, read_records
from data_pipelines.code_execution.sandbox.inside.assertions import prepare
from data_pipelines.code_execution.sandbox.tests import Assertions, Tests


@dataclass(frozen=True)
class Problem:
    """A programming problem.

    Attributes:
        id: as the benchmark names it, with the benchmark's name where that is a bare number.
        ask: what a chat model is told.
        prefix: the beginning of a program that a base model continues; what it writes is judged with it.
        tests: None where the problem comes without and none were made.
        entry_point: the function that is asked for; None for whole programs.
        support: imports and helpers that the problem gives to every program.
        solution: a program known to be right.
        text: the description alone, for decontamination.
        record: as it was read.
        format: of the record, a name of `FORMATS`.
    """

    id: str
    ask: str
    prefix: str
    tests: Tests | None
    entry_point: str | None = None
    support: str = ""
    solution: str | None = None
    text: str = ""
    record: Mapping[str, Any] | None = None
    format: str = ""


TestMaker = Callable[[Mapping[str, Any]], Tests]
"""Makes the tests of a problem that comes without, from its record."""


def read_problems(
    source: str,
    split: str = "test",
    *,
    format: str = "auto",
    limit: int | None = None,
    make_tests: TestMaker | None = None,
    keep_aside: str | None = None,
    max_rejected_share: float = 0.1,
) -> list[Problem]:
    """Read a benchmark or a problem set.

    Args:
        source: a file, or a name on the hub, as for `align.trees.read_records`.
        split: of a hub data set.
        format: a name from `FORMATS`, or "auto": by the columns.
        limit: the first so many.
        make_tests: called for problems without tests.
        keep_aside: where records that are no problem are written.
        max_rejected_share: how many there may be.

    Raises:
        AlignError: no such source or format, or too many records that cannot be used; names the first.
    """
    from data_pipelines.code_execution.formats import FORMATS, recognised

    if format != "auto" and format not in FORMATS:
        raise AlignError(f"format is '{format}': {nearest(format, [*FORMATS, 'auto'])}")
    found: dict[str, Problem] = {}
    rejected = []
    for where, record in read_records(source, split):
        if limit is not None and len(found) >= limit:
            break
        try:
            if not isinstance(record, Mapping):
                raise AlignError("the line is not a record")
            name = recognised(record) if format == "auto" else format
            problem = FORMATS[name](record)
            if problem.tests is None:
                if make_tests is None:
                    raise AlignError(f"the problem '{problem.id}' has no tests, and nothing is named that makes some")
                problem = replace(problem, tests=make_tests(record))
            if problem.id in found:
                raise AlignError(f"there are two problems '{problem.id}'")
            found[problem.id] = replace(problem, record=record, format=name)
        except AlignError as error:
            rejected.append(Rejected(where, str(error), record))
    check_rejected(len(found), rejected, keep_aside, max_rejected_share)
    if not found:
        raise AlignError(f"{source}: there is no problem in it")
    return list(found.values())


_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w., \t]+))", re.MULTILINE)


def packages_of(problems: Sequence[Problem]) -> list[str]:
    """The packages beyond the standard library that the tests of problems import, each once.

    Raises:
        AlignError: one is not installed; says which problem needs it.
    """
    needed: dict[str, str] = {}
    for problem in problems:
        for name in _imported_by(problem.tests):
            needed.setdefault(name, problem.id)
    for name, id in needed.items():
        if importlib.util.find_spec(name) is None:
            raise AlignError(f"the tests of '{id}' import {name}, which is not installed here: pip install {name}")
    return list(needed)


def _imported_by(tests: Tests | None) -> list[str]:
    if not isinstance(tests, Assertions):
        return []
    found = []
    for code in (tests.code, tests.support):
        written = [part.strip() for match in _IMPORT.finditer(code) for part in (match[1] or match[2]).split(",")]
        if written:
            names = prepare(code)[2]  # what only looks like an import, in a string, is none of the names that the code uses
            modules = [part.split()[0] for part in written if part]
            found += [module.partition(".")[0] for module in modules if module in names]
    return [name for name in dict.fromkeys(found) if name and name not in sys.stdlib_module_names]
