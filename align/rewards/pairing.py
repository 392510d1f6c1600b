"""Which responses of a prompt become pairs, by name. A rule sees only the order of the rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from align.errors import AlignError
from align.registry import Registry

Rule = Callable[[int], list[tuple[int, int]]]
"""Number of responses → (chosen, rejected) as ranks, 0 the highest reward."""
PAIRINGS: Registry[Rule] = Registry("pairings", "rounds.pairing")
RIGHT_OVER_WRONG = "right_over_wrong"


@PAIRINGS.register("best_worst")
def best_worst(count: int) -> list[tuple[int, int]]:
    """The best response over the worst (DICE)."""
    return [(0, count - 1)]


@PAIRINGS.register("best_median")
def best_median(count: int) -> list[tuple[int, int]]:
    """The best response over the median one."""
    return [(0, count // 2)]


@PAIRINGS.register("best_second")
def best_second(count: int) -> list[tuple[int, int]]:
    """The best response over the second best."""
    return [(0, 1)]


@PAIRINGS.register("quartiles")
def quartiles(count: int) -> list[tuple[int, int]]:
    """The upper quartile over the lower one."""
    return [(count // 4, count - 1 - count // 4)]


@PAIRINGS.register("two_best_two_worst")
def two_best_two_worst(count: int) -> list[tuple[int, int]]:
    """The best over the worst, and the second best over the second worst."""
    return [(0, count - 1), (1, count - 2)] if count >= 4 else [(0, count - 1)]


@PAIRINGS.register("best_rest")
def best_rest(count: int) -> list[tuple[int, int]]:
    """The best response over every other."""
    return [(0, rank) for rank in range(1, count)]


@PAIRINGS.register(RIGHT_OVER_WRONG)
def right_over_wrong(count: int) -> list[tuple[int, int]]:
    """Every response over every one of a lower reward; of answers graded 1 or 0 the right over the wrong (IRPO, arXiv 2404.19733)."""
    return [(better, worse) for better in range(count) for worse in range(better + 1, count)]


def rule_ranks(rule: str, count: int) -> list[tuple[int, int]]:
    """The pairs of a rule for so many responses, as ranks.

    Raises:
        AlignError: no such rule, or it names a response that there is not.
    """
    ranks = PAIRINGS.find(rule)(count)
    for pair in ranks:
        if not all(0 <= rank < count for rank in pair):
            raise AlignError(f"{PAIRINGS.key}: '{rule}' gives the ranks {pair} for {count} responses: expected 0 to {count - 1}")
    return [(chosen, rejected) for chosen, rejected in ranks if chosen != rejected]


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
