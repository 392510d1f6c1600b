"""Length-regularized rewards (DICE, arXiv 2406.09760, eq. 8): s − α·|y|, with the α that makes pairs equally long on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.rewards.pairing import ranking, rule_ranks

STEP = 0.001


@dataclass(frozen=True)
class LengthFit:
    """The α found, and the mean of |y⁺| − |y⁻| over the pairs at that α and without shaping."""

    alpha: float
    mean_difference: float
    unshaped_difference: float


def shaped(scores: Sequence[float], lengths: Sequence[float], alpha: float) -> list[float]:
    """s − α·|y| of each response.

    >>> shaped([1.0, 2.0], [10, 30], 0.1)
    [0.0, -1.0]
    """
    return [score - alpha * length for score, length in zip(scores, lengths, strict=True)]


def mean_difference(scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]], alpha: float, rule: str = "best_worst") -> float:
    """The mean of |y⁺| − |y⁻| over the pairs of all prompts at one α; 0 where there is no pair."""
    return _mean(_grouped(scores, lengths), alpha, rule)


def fit_alpha(scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]], rule: str = "best_worst") -> LengthFit:
    """The α in [0, 1] with the smallest |mean of |y⁺| − |y⁻||, found exactly.

    Which responses are paired depends on the order of the shaped rewards alone, and two responses change places at one α:
    (s_j − s_k)/(|y_j| − |y_k|). Between these points the mean is constant, so one look at every interval is a search of
    all of [0, 1]. The released code's sweep (α in steps of 0.001 up to the first rise of |mean|) is made as well, for the
    sake of single points at which several prompts change at once: the result is never worse than that, and it is that of
    the released code wherever no other α is better.

    Args:
        scores: of each prompt, its responses' scores.
        lengths: their lengths, in characters or tokens.
        rule: how pairs are made (`align.rewards.PAIRINGS`).

    Returns:
        The released code's α if it is among the best; else the middle of the first of the best intervals.
    """
    groups = _grouped(scores, lengths)
    candidates = [_sweep(groups, rule), _exact(groups, rule)]
    alpha = min(candidates, key=lambda a: abs(_mean(groups, a, rule)))
    return LengthFit(alpha, _mean(groups, alpha, rule), _mean(groups, 0.0, rule))


Groups = list[tuple[np.ndarray, np.ndarray]]  # prompts with equally many responses: scores and lengths, [prompts, responses]


def _grouped(scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]]) -> Groups:
    groups: dict[int, list[tuple[Sequence[float], Sequence[float]]]] = {}
    for score, length in zip(scores, lengths, strict=True):
        groups.setdefault(len(score), []).append((score, length))
    return [
        (np.array([s for s, _ in group], dtype=np.float64), np.array([n for _, n in group], dtype=np.float64)) for group in groups.values()
    ]


def _differences(rewards: np.ndarray, lengths: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """The sum of |y⁺| − |y⁻| over each row's pairs, and their number: two of `[rows]` for `[rows, responses]`."""
    order = ranking(rewards)
    ranks = rule_ranks(rule, rewards.shape[-1])
    chosen, rejected = order[:, [c for c, _ in ranks]], order[:, [r for _, r in ranks]]
    valid = np.take_along_axis(rewards, chosen, -1) > np.take_along_axis(rewards, rejected, -1)
    lengths = np.broadcast_to(lengths, rewards.shape)
    difference = np.take_along_axis(lengths, chosen, -1) - np.take_along_axis(lengths, rejected, -1)
    return (difference * valid).sum(-1), valid.sum(-1)


def _mean(groups: Groups, alpha: float, rule: str) -> float:
    parts = [_differences(score - alpha * length, length, rule) for score, length in groups]
    count = sum(int(counts.sum()) for _, counts in parts)
    return sum(float(sums.sum()) for sums, _ in parts) / count if count else 0.0


def _exact(groups: Groups, rule: str) -> float:
    """The middle of the best interval: every prompt's changes, sorted together, summed up from α = 0."""
    places, changes = [np.zeros(0)], [np.zeros((0, 2))]
    start = np.zeros(2)  # at α = 0: the sum of differences, and the number of pairs
    for scores, lengths in groups:
        for score, length in zip(scores, lengths, strict=True):
            points = _crossings(score, length)
            middles = (np.append(0.0, points) + np.append(points, 1.0)) / 2
            values = np.stack(_differences(score - middles[:, None] * length, length, rule), -1)
            start += values[0]
            places.append(points)
            changes.append(np.diff(values, axis=0))
    order = np.argsort(np.concatenate(places), kind="stable")
    starts = np.append(0.0, np.concatenate(places)[order])
    totals = start + np.concatenate([np.zeros((1, 2)), np.concatenate(changes)[order].cumsum(0)])
    ends = np.append(starts[1:], 1.0)
    value = np.abs(totals[:, 0] / np.maximum(totals[:, 1], 1))
    value[ends <= starts] = np.inf  # several changes at one point: there is nothing between them
    best = int(np.argmin(value))
    return float((starts[best] + ends[best]) / 2)


def _crossings(score: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Where in (0, 1) two responses of a prompt change places, in order."""
    first, second = np.triu_indices(len(score), 1)
    slope = length[first] - length[second]
    with np.errstate(divide="ignore", invalid="ignore"):
        points = (score[first] - score[second]) / slope
    return np.unique(points[(slope != 0) & (points > 0) & (points < 1)])


def _sweep(groups: Groups, rule: str) -> float:
    """The released code's search: steps of 0.001 from 0 to 0.999, up to the first rise; of equal values the first."""
    best, best_value = 0.0, abs(_mean(groups, 0.0, rule))
    for alpha in np.arange(0.0, 1.0, STEP)[1:]:
        value = abs(_mean(groups, float(alpha), rule))
        if value > best_value:
            break
        if value < best_value:
            best, best_value = float(alpha), value
    return best
