"""CHES, the centered hidden embedding similarity: which pairs will push the chosen response's likelihood down (arXiv 2410.08847)."""

from __future__ import annotations

from torch import Tensor


def ches(chosen: Tensor, rejected: Tensor) -> Tensor:
    """CHES(x, y⁺, y⁻) = ⟨H⁺, H⁻⟩ − ‖H⁺‖² (definition 2). The higher, the more the chosen response's likelihood is displaced.

    Args:
        chosen: H⁺, `[edges, hidden size]`: the sum of the last layer's states from the last token of the prompt to the last but one of
            the chosen response (`TreeOutput.hidden_sums`).
        rejected: H⁻, the same of the rejected response.

    >>> import torch
    >>> ches(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])).item()
    0.0
    """
    return (chosen * rejected).sum(-1) - chosen.square().sum(-1)


def normalized_ches(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor) -> Tensor:
    """The length-normalised score, ⟨H⁺, H⁻⟩ / (n⁺ n⁻) − ‖H⁺‖² / (n⁺)², by which the paper filters (definition 3).

    Its experiment keeps the 5% of the pairs with the lowest scores: `align diagnose MODEL PAIRS --filter 0.95 --output FILE`.

    Args:
        chosen: as for `ches`.
        rejected: as for `ches`.
        chosen_lengths: `[edges]`, tokens.
        rejected_lengths: `[edges]`, tokens.
    """
    return ches(chosen / chosen_lengths[:, None], rejected / rejected_lengths[:, None])
