"""Losses without a reference model, and terms on single nodes.

`chosen_logps`, `rejected_logps`: `[edges]`, log π(y|x) summed over the `*_lengths` tokens of each end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.losses.numerics import log1mexp
from align.losses.registry import register


@register("sft", source="maximum likelihood on the chosen responses", per="chosen_token")
def sft(chosen_logps: Tensor) -> Tensor:
    """−log π(y⁺|x), averaged over the chosen *tokens* of the step, as TRL's `sft` is.

    >>> sft(torch.tensor([-3.0])).item()
    3.0
    """
    return -chosen_logps


@register("nll", source="SFT-DPO's term, 3D-properties, arXiv 2406.07327, per token of each response")
def nll(chosen_logps: Tensor, chosen_lengths: Tensor) -> Tensor:
    """−log π(y⁺|x)/|y⁺|, averaged over edges.

    >>> nll(torch.tensor([-3.0]), torch.tensor([3])).item()
    1.0
    """
    return -chosen_logps / chosen_lengths.clamp(min=1)


@register("nll_sum", source="SFT-DPO's term, 3D-properties, arXiv 2406.07327, summed over the response")
def nll_sum(chosen_logps: Tensor) -> Tensor:
    """−log π(y⁺|x), averaged over edges.

    >>> nll_sum(torch.tensor([-3.0])).item()
    3.0
    """
    return -chosen_logps


@register("simpo", source="SimPO, arXiv 2405.14734, eq. 6; β = 2 and γ = 0.5 as in its authors' SimPOConfig (γ/β = 0.25)")
def simpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 2.0,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> Tensor:
    """SimPO: −log σ(β log π(y⁺)/|y⁺| − β log π(y⁻)/|y⁻| − γ).

    >>> one = torch.ones(1)
    >>> round(simpo(-1 * one, -2 * one, one, one, simpo_gamma=2.0).item(), 6)
    0.693147
    """
    delta = chosen_logps / chosen_lengths.clamp(min=1) - rejected_logps / rejected_lengths.clamp(min=1)
    logits = beta * delta - simpo_gamma
    return -F.logsigmoid(logits) * (1 - label_smoothing) - F.logsigmoid(-logits) * label_smoothing


@register("orpo", source="ORPO, arXiv 2403.07691, eqs. 6 and 7")
def orpo(
    chosen_logps: Tensor, rejected_logps: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, *, orpo_lambda: float = 0.1
) -> Tensor:
    """ORPO: −log p(y⁺) − λ log σ(log odds(y⁺) − log odds(y⁻)), p the geometric mean of the token probabilities.

    >>> one = torch.ones(1)
    >>> round(orpo(-1 * one, -1 * one, one, one, orpo_lambda=1.0).item(), 5)
    1.69315
    """
    chosen = chosen_logps / chosen_lengths.clamp(min=1)
    rejected = rejected_logps / rejected_lengths.clamp(min=1)
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -chosen - orpo_lambda * F.logsigmoid(log_odds)


@register("optimism", source="SELM, arXiv 2405.19332, eq. 8: the term beside DPO", per="free_node")
def optimism(free_logratios: Tensor, *, beta: float = 0.1, selm_alpha: float = 0.001) -> Tensor:
    """SELM's optimism: α β r̂(x, y_s) on responses y_s sampled from the reference (leaves without an edge).

    >>> round(optimism(torch.tensor([10.0])).item(), 6)
    0.001
    """
    return selm_alpha * beta * free_logratios


def wpo_weights(logps: Tensor, log_sum_sq_probs: Tensor, lengths: Tensor) -> Tensor:
    """WPO's weight of one response (arXiv 2406.11827, eq. 2 with sampled alignment, sec. 3.3).

    exp of the mean over tokens of log π(y_t) − log Σ_v π(v)²; an edge is weighted by the product of its ends', which the
    authors' code clamps at 1 and trl does not (`PreferenceConfig.wpo_max_weight`).

    Args:
        logps: `[responses]`, sum of token log-probs.
        log_sum_sq_probs: `[responses]`, sum over tokens of log Σ_v π(v)².
        lengths: `[responses]`, tokens.

    Returns:
        `[responses]`, detached.

    >>> wpo_weights(torch.tensor([-2.0]), torch.tensor([-2.0]), torch.tensor([4])).item()
    1.0
    """
    return torch.exp((logps - log_sum_sq_probs) / lengths.clamp(min=1)).detach()
