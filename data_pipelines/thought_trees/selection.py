"""Which paths go on, and which answer wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from data_pipelines.thought_trees.tasks import Question

WinnerRule = Literal["values", "paths"]


def best(nodes: Sequence[int], value: Callable[[int], float], keep: int, at_most: int | None) -> list[int]:
    """The `keep` best nodes and those that tie with the last of them; the earlier first where values are equal.

    Args:
        nodes: to choose from.
        value: of a node.
        keep: n.
        at_most: so many in all; None: every tie, as CPO's code has it.

    >>> best([0, 1, 2, 3], {0: 1.0, 1: 3.0, 2: 1.0, 3: 0.0}.__getitem__, keep=2, at_most=None)
    [1, 0, 2]
    """
    ordered = sorted(nodes, key=lambda node: -value(node))
    tied = [node for node in ordered[keep:] if value(node) == value(ordered[keep - 1])]
    return [*ordered[:keep], *tied][:at_most]


def winners(answers: Mapping[int, str], value: Callable[[int], float], rule: WinnerRule = "values") -> tuple[str, list[int]]:
    """The winning answer and the nodes that state it, the best first (CPO's `final_evaluate` and `final_evaluate_fever`).

    Args:
        answers: by final node, in canonical form; not empty.
        value: of a node.
        rule: "values": the answer whose nodes' values sum highest; of equal sums, the one whose worst node is worth more. "paths": the
            answer of most nodes. Of answers that tie still, the one with the best node wins, and of these the earliest.

    >>> winners({4: "12", 5: "7", 6: "12"}, {4: 1.0, 5: 1.5, 6: 1.0}.__getitem__)
    ('12', [4, 6])
    >>> winners({4: "no", 5: "yes", 6: "no"}, {4: 1.0, 5: 4.0, 6: 1.0}.__getitem__, "paths")
    ('no', [4, 6])
    """
    groups: dict[str, list[int]] = {}
    for node in sorted(answers, key=lambda node: -value(node)):
        groups.setdefault(answers[node], []).append(node)
    if rule == "paths":
        answer = max(groups, key=lambda text: len(groups[text]))
    else:
        answer = max(groups, key=lambda text: (sum(value(node) for node in groups[text]), value(groups[text][-1])))
    return answer, groups[answer]


def with_agreeing(
    kept: Sequence[int], answers: Mapping[int, str], answer: str, agree: Callable[[str, str], bool], value: Callable[[int], float]
) -> list[int]:
    """The winning nodes, then those whose answers agree with the winning one though they are written otherwise, the best first.

    CPO's code calls these correct as well when it makes its pairs (`clean_dataset.py`): nothing is to be preferred to them.

    Args:
        kept: the winning nodes.
        answers: by final node, in canonical form.
        answer: the winning one.
        agree: whether two answers say the same.
        value: of a node.

    >>> with_agreeing([4], {4: "paris", 5: "paris france", 6: "rome"}, "paris", lambda a, b: a in b or b in a, lambda node: 1.0)
    [4, 5]
    """
    others = [node for node in answers if node not in kept and agree(answers[node], answer)]
    return [*kept, *sorted(others, key=lambda node: -value(node))]


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
        answer: the winning one.
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
