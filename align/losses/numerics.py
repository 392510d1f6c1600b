"""Numerically stable scalar functions that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor

_LOG_HALF = -0.6931471805599453


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ 0, accurate at both ends (Mächler 2012, "Accurately computing log(1 − exp(−|a|))").

    Args:
        x: any shape, values ≤ 0; clamped just below 0, where the result would be −∞.

    >>> [f"{v:.4g}" for v in log1mexp(torch.tensor([-1e-4, -50.0])).tolist()]
    ['-9.21', '-1.929e-22']
    """
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > _LOG_HALF
    # Each branch sees only arguments it is good for, so that neither sends a NaN back through `where`.
    close = torch.log(-torch.expm1(torch.where(near, x, _LOG_HALF)))
    far = torch.log1p(-torch.exp(torch.where(near, torch.full_like(x, _LOG_HALF), x)))
    return torch.where(near, close, far)


def exp_linear(x: Tensor, limit: float = 40.0) -> Tensor:
    """eˣ, continued by its tangent above `limit`, so that value and gradient stay finite.

    >>> exp_linear(torch.tensor([0.0, 1000.0])).isfinite().all().item()
    True
    """
    capped = x.clamp(max=limit)
    return torch.exp(capped) * (1 + (x - capped))
