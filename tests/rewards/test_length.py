"""α: exact over [0, 1], never worse than the released code's sweep; pairs by rule."""

import itertools
import random

import numpy as np
import pytest

from align.errors import AlignError
from align.rewards import PAIRINGS, fit_alpha, mean_difference, pairs_of, shaped


def prompts(seed, count=12, ragged=True, scale=5.0):
    """Scores that grow with length, as implicit rewards do."""
    rng = random.Random(seed)
    scores, lengths = [], []
    for _ in range(count):
        k = rng.randint(2, 9) if ragged else 8
        lengths.append([rng.randint(5, 400) for _ in range(k)])
        scores.append([rng.gauss(0, scale) + rng.choice([0.01, 0.05, 0.2]) * n for n in lengths[-1]])
    return scores, lengths


def by_hand(scores, lengths, alpha):
    """The definition, without a shared line of code."""
    gaps = []
    for s, n in zip(scores, lengths, strict=True):
        values = [a - alpha * b for a, b in zip(s, n, strict=True)]
        best, worst = values.index(max(values)), values.index(min(values))
        if values[best] > values[worst]:
            gaps.append(n[best] - n[worst])
    return sum(gaps) / len(gaps)


def released_code(scores, lengths):
    """Steps of 0.001 from 0, stopping at the first rise."""
    best = abs(by_hand(scores, lengths, 0.0))
    for step in range(1, 1001):
        value = abs(by_hand(scores, lengths, step * 0.001))
        if value > best:
            break
        best = value
    return best


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.slow
def test_never_worse_than_the_released_codes_sweep_nor_than_a_fine_grid(seed):
    scores, lengths = prompts(seed)
    fit = fit_alpha(scores, lengths)
    assert 0 <= fit.alpha <= 1
    assert fit.mean_difference == pytest.approx(by_hand(scores, lengths, fit.alpha))
    assert abs(fit.mean_difference) <= released_code(scores, lengths) + 1e-9
    assert abs(fit.mean_difference) <= min(abs(by_hand(scores, lengths, a)) for a in np.linspace(0, 1, 2001)) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_best_of_all_intervals(seed):
    """Against every interval between any two responses' crossings, one by one."""
    scores, lengths = prompts(seed, count=5)
    points = {0.0, 1.0}
    for s, n in zip(scores, lengths, strict=True):
        points |= {(s[i] - s[j]) / (n[i] - n[j]) for i in range(len(s)) for j in range(i) if n[i] != n[j]}
    points = sorted(p for p in points if 0 <= p <= 1)
    best = min(abs(by_hand(scores, lengths, (a + b) / 2)) for a, b in itertools.pairwise(points) if b - a > 1e-12)
    assert abs(fit_alpha(scores, lengths).mean_difference) == pytest.approx(best)


def test_a_length_bias_is_taken_out():
    scores, lengths = prompts(0, count=200)
    fit = fit_alpha(scores, lengths)
    assert fit.unshaped_difference > 50
    assert abs(fit.mean_difference) < 2


@pytest.mark.parametrize("rule", PAIRINGS)
def test_other_pairings_are_searched_exactly_too(rule):
    scores, lengths = prompts(3, count=8, ragged=False)
    fit = fit_alpha(scores, lengths, rule)
    grid = [abs(mean_difference(scores, lengths, a, rule)) for a in np.linspace(0, 1, 2001)]
    assert abs(fit.mean_difference) <= min(grid) + 1e-9


def test_degenerate_prompts():
    assert fit_alpha([[1.0, 1.0]], [[5, 5]]).mean_difference == 0
    assert fit_alpha([[2.0, 1.0]], [[5, 7]], "best_worst").mean_difference == -2
    assert fit_alpha([], []).mean_difference == 0


def test_many_prompts_come_out_nearly_equally_long():
    scores, lengths = prompts(1, count=2000, ragged=False)
    assert abs(fit_alpha(scores, lengths).mean_difference) < 1


def test_pairs_by_rule():
    rewards = [0.3, 5.0, -2.0, 1.0]
    assert pairs_of(rewards) == [(1, 2)]
    assert pairs_of(rewards, "best_second") == [(1, 3)]
    assert pairs_of(rewards, "best_rest") == [(1, 3), (1, 0), (1, 2)]
    assert pairs_of(rewards, "two_best_two_worst") == [(1, 2), (3, 0)]
    assert pairs_of([1.0, 1.0]) == []
    assert shaped([1.0], [10], 0.5) == [-4.0]
    with pytest.raises(AlignError, match=r"rounds.pairing is 'best_wurst': did you mean 'best_worst'"):
        pairs_of(rewards, "best_wurst")
