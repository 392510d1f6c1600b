"""Which responses of a prompt become pairs, by name. A rule sees only the order of the rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from align.errors import AlignError, nearest

Rule = Callable[[int], list[tuple[int, int]]]

RIGHT_OVER_WRONG = "right_over_wrong"
PAIRINGS: dict[str, Rule] = {
    "best_worst": lambda count: [(0, count - 1)],
    "best_median": lambda count: [(0, count // 2)],
    "best_second": lambda count: [(0, 1)],
    "quartiles": lambda count: [(count // 4, count - 1 - count // 4)],
    "two_best_two_worst": lambda count: [(0, count - 1), (1, count - 2)] if count >= 4 else [(0, count - 1)],
    "best_rest": lambda count: [(0, rank) for rank in range(1, count)],
    RIGHT_OVER_WRONG: lambda count: [(better, worse) for better in range(count) for worse in range(better + 1, count)],
}
"""Number of responses → (chosen, rejected) as ranks, 0 the highest reward. `best_worst` is DICE's. `right_over_wrong`: every response over
every one of a lower reward, of answers graded 1 or 0 the right over the wrong (IRPO, arXiv 2404.19733)."""


def rule_ranks(rule: str, count: int) -> list[tuple[int, int]]:
    """The pairs of a rule for so many responses, as ranks.

    Raises:
        AlignError: no such rule.
    """
    if rule not in PAIRINGS:
        raise AlignError(f"rounds.pairing is '{rule}': {nearest(rule, PAIRINGS)}")
    return [(chosen, rejected) for chosen, rejected in PAIRINGS[rule](count) if chosen != rejected]


def pairs_of(rewards: Sequence[float], rule: str = "best_worst") -> list[tuple[int, int]]:
    """The pairs of one prompt as indices of its responses; none where the two rewards are equal.

    Of equal rewards the later response ranks higher, as in DICE's released code.

    Raises:
        AlignError: no such rule.

    >>> pairs_of([0.5, 2.0, -1.0])
    [(1, 2)]
    """
    order = ranking(np.asarray(rewards, dtype=np.float64))
    pairs = [(int(order[chosen]), int(order[rejected])) for chosen, rejected in rule_ranks(rule, len(order))]
    return [(chosen, rejected) for chosen, rejected in pairs if rewards[chosen] > rewards[rejected]]


def ranking(rewards: np.ndarray) -> np.ndarray:
    """Indices of responses from the highest reward to the lowest, along the last axis: `[..., responses]`.

    Of equal rewards the later response comes first: DICE's released code sorts upwards and reads from the end.

    >>> ranking(np.array([1.0, 2.0, 1.0])).tolist()
    [1, 2, 0]
    """
    return np.argsort(rewards, axis=-1, kind="stable")[..., ::-1]
