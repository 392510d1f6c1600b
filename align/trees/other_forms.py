"""Forms of pairs that hold their parts one level deeper → the columns that are read, and what is said of records that hold no pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def unfolded(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of one of these forms under the columns that are read; any other as it is.

    OpenAI's preferences: `input` with messages and tools, `preferred_output`, `non_preferred_output`. LLaMA-Factory's older ones:
    `instruction`, `input`, and in `output` a list of the better and the worse answer.

    >>> unfolded({"instruction": "1+1?", "output": ["2", "3"]})
    {'instruction': '1+1?', 'chosen': '2', 'rejected': '3'}
    """
    if "chosen" in record or "rejected" in record:
        return record
    if "preferred_output" in record and "non_preferred_output" in record:
        moved = ("input", "preferred_output", "non_preferred_output")
        rest = {name: value for name, value in record.items() if name not in moved}
        asked = record.get("input")
        inner = (
            {"messages": asked.get("messages"), "tools": asked.get("tools") or None} if isinstance(asked, Mapping) else {"prompt": asked}
        )
        return {**rest, **inner, "chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    answers = record.get("output")
    if isinstance(answers, list) and len(answers) == 2 and all(isinstance(answer, str) for answer in answers):
        rest = {name: value for name, value in record.items() if name != "output"}
        return {**rest, "chosen": answers[0], "rejected": answers[1]}
    return record


def why_no_pair(record: Mapping[str, Any]) -> str:
    """What a record without a pair seems to be, as the beginning of a sentence; "" where its columns say nothing.

    >>> why_no_pair({"prompt": "1+1?", "completion": "2", "label": True})
    'feedback on single answers (prompt, completion, label) is no pair: a pair has two answers to the same prompt. '
    """
    names = set(record)
    single = [name for name in ("completion", "output", "response", "answer") if name in names]
    rated = [name for name in ("label", "kto_tag", "rating") if name in names]
    if single and rated:
        told = ", ".join([*(name for name in ("prompt", "instruction", "question") if name in names), single[0], rated[0]])
        return f"feedback on single answers ({told}) is no pair: a pair has two answers to the same prompt. "
    if single or {"messages", "conversations"} & names:
        return "there is one answer to each prompt, and a pair has two: methods that sample (DICE, self-rewarding) need prompts alone. "
    return ""
