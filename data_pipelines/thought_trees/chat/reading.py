r"""The answer that a chat model's response states, read in the forms in which chat models state answers.

What counts, in this order:

1. *Statements*, the last one of which counts: "the (final) answer is …", "Answer: …" (also as a heading above it), "#### …",
   "\boxed{…}", "<answer>…</answer>". A statement that is denied, supposed or asked ("the answer is not 12", "if the answer is 12",
   "is the answer 12?") is none. A last statement that leaves a choice ("12 or 14") makes the response unreadable. Where the response
   goes on with a question of its own making, what stands before that question is read first.
2. *Conclusions*, only where the response came to its end by itself: the whole response is the answer; the last paragraph has it in
   bold; its last sentence concludes with it ("So she has 14 apples left.").

What a model thinks between <think> and </think> is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from data_pipelines.thought_trees.chat import conclusions
from data_pipelines.thought_trees.chat.statements import Statement, statements
from data_pipelines.thought_trees.chat.text import (
    PROTECTED,
    before_the_cut,
    protected,
    without_emphasis,
    without_text_commands,
    without_thinking,
)
from data_pipelines.thought_trees.chat.values import AMBIGUOUS, expression_in, formula_in, number_in, stands_first, words_in


class AnswerKind(StrEnum):
    """What an answer is, and so how much of a statement belongs to it."""

    NUMBER = "number"
    MATHS = "maths"
    EXPRESSION = "expression"
    WORDS = "words"
    LABEL = "label"


_VALUES: dict[AnswerKind, conclusions.Value] = {
    AnswerKind.NUMBER: number_in, AnswerKind.MATHS: formula_in, AnswerKind.EXPRESSION: expression_in,
    AnswerKind.WORDS: words_in, AnswerKind.LABEL: words_in,
}  # fmt: skip
_NEXT_QUESTION = re.compile(r"\n\s*(?:[#*]*\s*)?(?:Question|Problem|Q|Human|User|Instruction)\s*\d*\s*:", re.IGNORECASE)


def read_answer(
    response: str, kind: AnswerKind, finish_reason: Literal["stop", "length"] = "stop", labels: Sequence[str] = ()
) -> str | None:
    """The answer that a response states; None where none can be read.

    Args:
        response: as the model wrote it.
        kind: what an answer is.
        finish_reason: "length" where the response was cut; its last, torn words are then left out.
        labels: texts that are answers, such as "not enough info": a "not" in them denies nothing.

    >>> read_answer("5 + 9 = 14. **The answer is 14 apples.**", AnswerKind.NUMBER)
    '14'
    >>> read_answer("The answer is not 12.", AnswerKind.NUMBER) is None
    True
    """
    text = without_thinking(response)
    text = before_the_cut(text) if finish_reason == "length" else text
    plain = protected(without_emphasis(text), labels)
    plain = plain if kind is AnswerKind.MATHS else without_text_commands(plain)
    value = _stated(plain, kind)
    if value is None and finish_reason == "stop":
        value = _concluded(text, plain, kind)
    return None if value is None or value == AMBIGUOUS else value.replace(PROTECTED, "")


def _stated(plain: str, kind: AnswerKind) -> str | None:
    """The last statement's answer; of a response that goes on with questions of its own, the one before these."""
    following = _NEXT_QUESTION.search(plain)
    if following and (value := _last_stated(plain[: following.start()], kind)) is not None:
        return value
    return _last_stated(plain, kind)


def _last_stated(plain: str, kind: AnswerKind) -> str | None:
    for statement in sorted(statements(plain), key=lambda statement: -statement.start):
        value = _VALUES[kind](statement.claim)
        if value == AMBIGUOUS or (value is not None and _is_near(statement, kind)):
            return value
    return None


def _is_near(statement: Statement, kind: AnswerKind) -> bool:
    """Whether a label's value stands beside it: below "Answer:" a whole solution may stand, which has other numbers first."""
    if kind is not AnswerKind.NUMBER or not (statement.labelled and statement.followed):
        return True
    return stands_first(statement.claim) and "=" not in statement.claim


def _concluded(text: str, plain: str, kind: AnswerKind) -> str | None:
    """What the response ends with; of a label, the whole sentence, in which a grader finds it."""
    last = conclusions.last_sentence(plain)
    if last is None:
        return None
    whole = conclusions.whole_answer(plain, _VALUES[kind])
    if whole is not None or kind is AnswerKind.LABEL:
        return whole or last.strip()
    bold = conclusions.bold_answer(text, _VALUES[kind])
    if bold is not None or kind in (AnswerKind.WORDS, AnswerKind.EXPRESSION):
        return bold
    formula = conclusions.concluding_formula(last) if kind is AnswerKind.MATHS else None
    return formula or conclusions.concluding_number(plain, last)
