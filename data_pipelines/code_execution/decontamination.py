"""Keeping the benchmarks out of the training problems: by name, by text, and by ten words in a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.code_execution.problems import Problem
from data_pipelines.code_execution.syntax import normalised

WORDS = 10


@dataclass(frozen=True)
class Overlap:
    """A problem that a benchmark has too.

    Attributes:
        problem, benchmark: ids.
        reason: "same id", "same text" or "ten words".
        words: those ten, where it is them.
    """

    problem: str
    benchmark: str
    reason: str
    words: str = ""


def overlaps(problems: Sequence[Problem], benchmarks: Iterable[Problem]) -> dict[str, Overlap]:
    """The problems that a benchmark has too, by id.

    Compared are ids, descriptions (words and numbers in lower case: the whole, and any ten in a row) and reference solutions (the whole,
    formatting aside).

    Args:
        problems: to be trained on.
        benchmarks: to be tested on.
    """
    names: dict[str, str] = {}
    texts: dict[str, str] = {}
    windows: dict[tuple[str, ...], str] = {}
    for tested in benchmarks:
        names.setdefault(tested.id, tested.id)
        for text in _wholes(tested):
            texts.setdefault(text, tested.id)
        for window in _windows(tested):
            windows.setdefault(window, tested.id)
    found = {problem.id: _overlap(problem, names, texts, windows) for problem in problems}
    return {id: overlap for id, overlap in found.items() if overlap is not None}


def _overlap(
    problem: Problem, names: Mapping[str, str], texts: Mapping[str, str], windows: Mapping[tuple[str, ...], str]
) -> Overlap | None:
    if problem.id in names:
        return Overlap(problem.id, problem.id, "same id")
    for text in _wholes(problem):
        if text in texts:
            return Overlap(problem.id, texts[text], "same text")
    for window in _windows(problem):
        if window in windows:
            return Overlap(problem.id, windows[window], "ten words", " ".join(window))
    return None


def _wholes(problem: Problem) -> list[str]:
    return [" ".join(_words(problem.text)), *([normalised(problem.solution)] if problem.solution else [])]


def _windows(problem: Problem) -> Iterable[tuple[str, ...]]:
    words = _words(problem.text)
    return (tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
