"""Rewards of several kinds on one scale (Transforming and Combining Rewards, arXiv 2402.00742)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def log_sigmoid_centred(rewards: Sequence[float], reference: Sequence[float], quantile: float = 0.85) -> list[float]:
    """u = log σ(r − r_ref), r_ref a quantile of the rewards of reference responses to the same prompt (eq. 6 and 7).

    Gains above the reference level count less and less, losses below it in full: no single reward can be had at the
    expense of the others, and a sum of u is a logical "and".

    Args:
        rewards: of one prompt's responses.
        reference: rewards of the reference policy's responses to it.
        quantile: 0 to 1.

    >>> [round(u, 3) for u in log_sigmoid_centred([0.0, 2.0], [0.0], 0.5)]
    [-0.693, -0.127]
    """
    centred = np.asarray(rewards, dtype=np.float64) - np.quantile(np.asarray(reference, dtype=np.float64), quantile)
    return (-np.logaddexp(0.0, -centred)).tolist()


def combined(
    rewards: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]], weights: Mapping[str, float], quantile: float = 0.85
) -> list[float]:
    """One number a response: a single reward as it is, several as the weighted sum of their log-sigmoid-centred forms.

    Args:
        rewards: by scorer, one prompt's responses.
        reference: by scorer, the reference responses' rewards.
        weights: by scorer.
        quantile: of the reference rewards.
    """
    if len(rewards) == 1:
        (only,) = rewards.values()
        return list(only)
    parts = [weights[name] * np.asarray(log_sigmoid_centred(values, reference[name], quantile)) for name, values in rewards.items()]
    return np.sum(parts, axis=0).tolist()
