"""Which paths go on, and which answer wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.thought_trees.tasks import Question


def best(nodes: Sequence[int], value: Callable[[int], float], keep: int, at_most: int) -> list[int]:
    """The `keep` best nodes and those that tie with the last of them, `at_most` in all; the earlier first where values are equal.

    >>> best([0, 1, 2, 3], {0: 1.0, 1: 3.0, 2: 1.0, 3: 0.0}.__getitem__, keep=2, at_most=4)
    [1, 0, 2]
    """
    ordered = sorted(nodes, key=lambda node: -value(node))
    tied = [node for node in ordered[keep:] if value(node) == value(ordered[keep - 1])]
    return [*ordered[:keep], *tied][:at_most]


def winners(answers: Mapping[int, str], value: Callable[[int], float]) -> tuple[str, list[int]]:
    """The answer whose nodes' values sum highest, and these nodes, the best first.

    Args:
        answers: by final node, in canonical form; not empty.
        value: of a node.

    >>> winners({4: "12", 5: "7", 6: "12"}, {4: 1.0, 5: 1.5, 6: 1.0}.__getitem__)
    ('12', [4, 6])
    """
    sums: dict[str, float] = {}
    for node, answer in answers.items():
        sums[answer] = sums.get(answer, 0.0) + value(node)
    answer = max(sums, key=sums.__getitem__)
    return answer, sorted((node for node in answers if answers[node] == answer), key=lambda node: -value(node))


def outcome(
    question: Question,
    answers: Mapping[int, str],
    answer: str,
    kept: Sequence[int],
    gold_nodes: Sequence[int],
    *,
    steps: int,
    dropped: Mapping[str, int],
    cost: Mapping[str, int],
) -> dict[str, Any]:
    """What a search found, as it stands in its tree's metadata under `search`.

    Args:
        question: its fields and gold answers are kept.
        answers: of the final nodes that state one, in canonical form.
        answer: the one whose values sum highest.
        kept: the final nodes of the kept paths, the best first.
        gold_nodes: the final nodes that state a gold answer.
        steps: how deep the search went.
        dropped: thoughts and judgements left out, by reason.
        cost: calls and tokens, of thoughts and of judgements.
    """
    return {
        "question": dict(question.fields), "gold": list(question.gold), "answers": {str(node): text for node, text in answers.items()},
        "answer": answer, "kept": list(kept), "gold_nodes": list(gold_nodes),
        "right": bool(kept and kept[0] in gold_nodes) if question.gold else None, "steps": steps,
        "dropped": {reason: count for reason, count in dropped.items() if count}, "cost": dict(cost),
    }  # fmt: skip
