"""Which paths go on, and which answer wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


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
