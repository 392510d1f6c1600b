"""How sure a rate or a mean is, and whether two models differ on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.errors import AlignError

RESAMPLES = 5000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval, of `count` items."""

    value: float
    low: float
    high: float
    count: int


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """A mean with its 95% interval: Wilson's where all values are 0 or 1 (JASA 22, 1927), else the bootstrap's percentiles.

    Raises:
        AlignError: there are no values.

    >>> found = interval([1, 1, 1, 0])
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.75, 0.301, 0.954)
    """
    found = np.asarray(values, dtype=float)
    if not len(found):
        raise AlignError("an interval of no values: nothing was measured")
    mean = float(found.mean())
    if np.isin(found, (0.0, 1.0)).all():
        from scipy import stats  # takes half a second, which commands that measure nothing do without

        wilson = stats.binomtest(int(found.sum()), len(found)).proportion_ci(method="wilson")
        return Interval(mean, float(wilson.low), float(wilson.high), len(found))
    low, high = np.quantile(_means(found, seed), (0.025, 0.975))
    return Interval(mean, float(low), float(high), len(found))


def with_bounds(name: str, values: Sequence[float]) -> dict[str, float]:
    """A mean by its name, and the ends of its 95% interval.

    >>> {name: round(value, 3) for name, value in with_bounds("accuracy", [1, 1, 1, 0]).items()}
    {'accuracy': 0.75, 'accuracy low': 0.301, 'accuracy high': 0.954}
    """
    found = interval(values)
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


@dataclass(frozen=True)
class Comparison:
    """Second minus first on the same items: the mean difference, its 95% interval, and the chance of one as large if they were alike."""

    difference: float
    low: float
    high: float
    p_value: float
    count: int


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Two models on the same items, item by item.

    The p-value is McNemar's exact one where all values are 0 or 1 (Psychometrika 12, 1947), else that of random signs.

    Raises:
        AlignError: not as many values in one as in the other, or none.

    >>> compare([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]).p_value
    0.0625
    """
    if len(first) != len(second) or not len(first):
        raise AlignError(f"{len(first)} and {len(second)} results: a paired test takes the same items of both models")
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low, high = np.quantile(_means(differences, seed), (0.025, 0.975))
    changed = differences[differences != 0]
    if not len(changed):
        p_value = 1.0
    elif np.isin(differences, (-1.0, 0.0, 1.0)).all():
        from scipy import stats

        p_value = float(stats.binomtest(int((changed > 0).sum()), len(changed)).pvalue)
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(RESAMPLES, len(changed)))
        p_value = float((1 + (np.abs(signs @ changed) >= abs(changed.sum()) - 1e-12).sum()) / (1 + RESAMPLES))
    return Comparison(float(differences.mean()), float(low), float(high), p_value, len(differences))


def _means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of resamples, a slice at a time: memory stays bounded."""
    draw, size = np.random.default_rng(seed), max(1, 2_000_000 // len(values))
    parts = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
    return np.concatenate([values[draw.integers(0, len(values), (part, len(values)))].mean(1) for part in parts])
