"""Rewards: the implicit reward of DPO, length shaping, combinations, pairing; scorers as plug-ins in `align.rewards.scorers`."""

from align.rewards.combination import combined, log_sigmoid_centred
from align.rewards.length import LengthFit, fit_alpha, mean_difference, shaped
from align.rewards.pairing import PAIRINGS, pairs_of

__all__ = ["LengthFit", "PAIRINGS", "combined", "fit_alpha", "log_sigmoid_centred", "mean_difference", "pairs_of", "shaped"]
