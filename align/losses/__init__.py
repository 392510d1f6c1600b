"""Preference losses: pure functions on edge tensors, with a registry by name. Needs torch and nothing else.

>>> import torch
>>> from align.losses import sigmoid
>>> sigmoid(chosen_scores=torch.tensor([2.0]), rejected_scores=torch.tensor([-1.0]), beta=0.1).item()
0.5543552041053772
"""

from align.loss_names import COMPOSITES
from align.losses.divergences import F_DIVERGENCES, f_divergence_score
from align.losses.pairwise import (
    bdpo,
    cdpo,
    discopop,
    dpo_positive,
    exo_pair,
    flex,
    hinge,
    ipo,
    length_margin,
    robust,
    rpo,
    sigmoid,
    sigmoid_norm,
)
from align.losses.pointwise import (
    aot,
    aot_unpaired,
    apo_down,
    apo_zero,
    bco_pair,
    cal_dpo,
    kto,
    kto_unpaired,
    nca_pair,
    sppo_hard,
)
from align.losses.reference_free import nll, nll_sum, optimism, orpo, sft, simpo, wpo_weights
from align.losses.registry import LOSSES, Loss, evaluate, expand, get_loss, register

__all__ = [
    "COMPOSITES", "F_DIVERGENCES", "LOSSES", "Loss", "aot", "aot_unpaired", "apo_down", "apo_zero", "bco_pair", "bdpo", "cal_dpo",
    "cdpo", "discopop", "dpo_positive", "evaluate", "exo_pair", "expand", "f_divergence_score", "flex", "get_loss", "hinge", "ipo",
    "kto", "kto_unpaired", "length_margin", "nca_pair", "nll", "nll_sum", "optimism", "orpo", "register", "robust", "rpo", "sft",
    "sigmoid", "sigmoid_norm", "simpo", "sppo_hard", "wpo_weights",
]  # fmt: skip
