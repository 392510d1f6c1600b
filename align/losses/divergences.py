"""f-divergences between policy and reference (f-DPO, arXiv 2309.16240, table 2): log-ratio → score f′(π/π₀)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

F_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


def f_divergence_score(logratios: Tensor, kind: str = "reverse_kl", alpha: float = 0.5) -> Tensor:
    """The score that takes the log-ratio's place in a pairwise loss under an f-divergence.

    Args:
        logratios: any shape, log π − log π₀.
        kind: one of `F_DIVERGENCES`: f′(t) is log t, 1 − 1/t, log(2t/(1 + t)) or (t^(α−1) − 1)/(α − 1).
        alpha: of the α-divergence; 1 is the limit log t.

    Returns:
        The same shape; finite for any finite float32 log-ratio (exponents are capped at 80).

    Raises:
        ValueError: unknown `kind`.

    >>> f_divergence_score(torch.tensor([0.0]), "js_divergence").item()
    0.0
    """
    if kind == "reverse_kl":
        return logratios
    if kind == "forward_kl":
        return 1 - torch.exp((-logratios).clamp(max=80.0))
    if kind == "js_divergence":
        return math.log(2) + F.logsigmoid(logratios)
    if kind == "alpha_divergence":
        if abs(alpha - 1) < 1e-6:
            return logratios
        return torch.expm1(((alpha - 1) * logratios.float()).clamp(max=80.0)).to(logratios.dtype) / (alpha - 1)
    raise ValueError(f"Unknown `f_divergence_type` '{kind}': it is one of {', '.join(F_DIVERGENCES)}.")
