"""What a task makes of a model: numbers, and the graded answers that they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from align.runs import Journal, Task


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


def write_answers(task: Task, answers: Iterable[Answer]) -> None:
    """Leave a stage's graded answers in its journal `answers/`, where reports and paired tests find them."""
    journal = Journal(task.folder / "answers", task.shard)
    journal.append((one.id, {"question": {"prompt": one.question}, "response": one.response, "right": one.grade}) for one in answers)
    journal.close()
