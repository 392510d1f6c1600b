"""How a task asks a chat model and reads its answer: without worked examples, in the model's own way of answering."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from data_pipelines.thought_trees.chat.reading import AnswerKind, read_answer

KINDS = {
    "number": AnswerKind.NUMBER, "sums": AnswerKind.NUMBER, "maths": AnswerKind.MATHS, "game24": AnswerKind.EXPRESSION,
    "label": AnswerKind.LABEL,
}  # fmt: skip
"""Grader → what its answers are; of any other grader, words."""
_SAY = 'Think step by step. End with the line "The final answer is: [answer]", where [answer] is {}.'
STATEMENTS = {
    AnswerKind.NUMBER: _SAY.format("a number"),
    AnswerKind.MATHS: "Think step by step, and put the final answer in \\boxed{}.",
    AnswerKind.EXPRESSION: _SAY.format("an expression"),
    AnswerKind.WORDS: _SAY.format("as short as possible"),
}  # fmt: skip
"""What a chat model is told about stating its answer."""


class ChatForm(BaseModel):
    """How a chat model is asked; whatever is left out follows from the rest of the task."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    question: str | None = None
    """How a question is asked, with `{placeholders}`; left out, the task's `instruction` and `question`."""
    statement: str | None = None
    """Stands after the question: how the answer is to be stated; left out, by the kind of answer."""
    kind: AnswerKind | None = None
    """What an answer is: number, maths, expression, words or label; left out, what the grader compares."""
    answer: list[str] = []
    """Regular expressions, tried in this order; the group of the first one's last match is the answer. Left out, answers are read in
    the forms in which chat models state them ("The answer is 14.", "**Answer:** 14", "#### 14", "\\boxed{14}", ...)."""
    max_new_tokens: int = 1024
    """Longest response."""

    def kind_of(self, grader: Mapping[str, Any]) -> AnswerKind:
        """What an answer is, by the task's grader where the form does not say it."""
        return self.kind or KINDS.get(str(grader.get("name")), AnswerKind.WORDS)

    def statement_for(self, grader: Mapping[str, Any]) -> str:
        """What the model is told about stating its answer."""
        if self.statement is not None:
            return self.statement
        kind = self.kind_of(grader)
        if kind is AnswerKind.LABEL:
            return _SAY.format(_one_of([str(label) for label in grader.get("labels", {})]))
        return STATEMENTS[kind]

    def answer_in(self, response: str, finish_reason: Literal["stop", "length"], grader: Mapping[str, Any]) -> str | None:
        """The answer that a response states; None where none can be read.

        Args:
            response: as the model wrote it.
            finish_reason: "length" where it was cut.
            grader: the task's.
        """
        for pattern in self.answer:
            matches = re.findall(pattern, response, re.MULTILINE)
            if matches:
                return matches[-1].strip() or None
        if self.answer:
            return None
        return read_answer(response, self.kind_of(grader), finish_reason, label_texts(grader))


def label_texts(grader: Mapping[str, Any]) -> list[str]:
    """The texts that stand for a task's labels; none where it has no labels.

    >>> label_texts({"name": "label", "labels": {"A": ["a", "aye"]}})
    ['A', 'a', 'aye']
    """
    labels = grader.get("labels")
    return [str(text) for label, texts in labels.items() for text in (label, *texts)] if isinstance(labels, Mapping) else []


def _one_of(names: Sequence[str]) -> str:
    """
    >>> _one_of(["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"])
    'SUPPORTS, REFUTES or NOT ENOUGH INFO'
    """
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1] if names else "") if part)
