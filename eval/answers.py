"""What a task makes of a model: numbers, and the graded answers that they are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One graded response.

    Attributes:
        id: of the item, the same for every model.
        question, response: as the model saw and wrote them.
        grade: what the task's first number is the mean of; 1 or 0 where an answer is right or wrong.
    """

    id: str
    question: str
    response: str
    grade: float


@dataclass(frozen=True)
class Measured:
    """Numbers by name, the one that matters first, and the answers behind it."""

    numbers: dict[str, float]
    answers: list[Answer]
