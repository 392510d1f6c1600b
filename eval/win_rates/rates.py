"""Win rates of annotations, as AlpacaEval computes them (github.com/tatsu-lab/alpaca_eval, `metrics`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.errors import AlignError
from eval.intervals import Interval, interval
from eval.win_rates.annotations import Annotation


@dataclass(frozen=True)
class WinRate:
    """How often the model's output is the better one; shares from 0 to 1.

    Attributes:
        win_rate: mean preference, with its interval.
        standard_error: of it.
        discrete: the same with each preference rounded to a win, a loss or a draw.
        wins, losses, draws: how many.
        without: annotations in which the judge said nothing; they count nowhere.
        model_length, baseline_length: mean length of the outputs, characters.
    """

    win_rate: Interval
    standard_error: float
    discrete: float
    wins: int
    losses: int
    draws: int
    without: int
    model_length: float
    baseline_length: float


def win_rate(annotations: Sequence[Annotation]) -> WinRate:
    """The win rate of a model over its baseline.

    Raises:
        AlignError: the judge said nothing at all.
    """
    found = np.array([one.preference for one in annotations if one.preference is not None])
    if not len(found):
        raise AlignError("no annotation has a preference: there is no win rate")
    wins, losses = int((found > 0.5).sum()), int((found < 0.5).sum())
    draws = len(found) - wins - losses
    return WinRate(
        win_rate=interval([float(value) for value in found]),
        standard_error=float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else float("nan"),
        discrete=(wins + draws / 2) / len(found),
        wins=wins, losses=losses, draws=draws, without=len(annotations) - len(found),
        model_length=float(np.mean([len(one.output_2) for one in annotations])),
        baseline_length=float(np.mean([len(one.output_1) for one in annotations])),
    )  # fmt: skip
