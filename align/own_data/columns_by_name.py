"""Columns of unknown names → the names that are read, by what such columns are called elsewhere."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from align.trees.messages import are_messages

# fmt: off
_CALLED = {
    "chosen": {
        "chosen", "better", "good", "preferred", "accepted", "winner", "winning", "win", "positive", "best", "right", "correct", "selected",
        "liked", "yw", "w",
    },
    "rejected": {
        "rejected", "worse", "bad", "dispreferred", "unpreferred", "loser", "losing", "lose", "negative", "worst", "wrong", "incorrect",
        "disliked", "refused", "yl", "l",
    },
    "prompt": {
        "prompt", "question", "query", "instruction", "input", "user", "ask", "asked", "q", "request", "problem", "human", "context",
    },
}
# fmt: on
"""What is read → words in the names that its column has elsewhere."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_TEXT_LIKE = 0.5  # share of the records in which a column must hold text or messages


def guessed_columns(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Our names → the columns that most likely hold them; only what is read under another name, and nothing that two columns might be.

    Args:
        records: the first of a data set.

    >>> guessed_columns([{"Question": "1+1?", "good_answer": "2", "bad_answer": "3"}])
    {'prompt': 'Question', 'chosen': 'good_answer', 'rejected': 'bad_answer'}
    """
    names = [name for name in dict.fromkeys(name for record in records for name in record) if _holds_text(records, name)]
    candidates = {target: [name for name in names if _is_called(name, target)] for target in ("chosen", "rejected")}
    taken = {name for several in candidates.values() for name in several}
    asked = [name for name in names if name not in taken and _is_called(name, "prompt")]
    candidates = {"prompt": asked, **candidates}
    return {target: several[0] for target, several in candidates.items() if len(several) == 1 and several != [target]}


def _is_called(name: str, target: str) -> bool:
    words = {word.lower() for word in _WORDS.findall(name)}
    if target == "chosen" and words & (_CALLED["rejected"] | {"not", "non", "un"}):
        return False
    if target == "rejected" and {"not", "non"} & words:
        return bool(words & _CALLED["chosen"])
    return bool(words & _CALLED[target]) or bool(difflib.get_close_matches(target, words, n=1, cutoff=0.85))


def _holds_text(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [record.get(name) for record in records]
    texts = [value for value in values if (isinstance(value, str) and value.strip()) or are_messages(value) or isinstance(value, Mapping)]
    return len(texts) > _TEXT_LIKE * len(values)
