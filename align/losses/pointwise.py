"""Losses that judge each end of an edge by itself, against a fixed target or a batch baseline.

In all of them `chosen_logratios`, `rejected_logratios`: `[edges]`, log π − log π₀ of each end; result: `[edges]`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.losses.registry import register


@register("nca_pair", source="NCA, arXiv 2402.05369, eq. 11")
def nca_pair(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """NCA on a pair: −log σ(r⁺) − ½ log σ(−r⁺) − ½ log σ(−r⁻), r = β log-ratio.

    >>> round(nca_pair(torch.zeros(1), torch.zeros(1)).item(), 5)
    1.38629
    """
    chosen, rejected = beta * chosen_logratios, beta * rejected_logratios
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


@register("bco_pair", source="BCO, arXiv 2404.04656, eq. 8, without the reward shift")
def bco_pair(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """BCO: a binary classifier of good and bad with the implicit reward as its logit.

    >>> round(bco_pair(torch.zeros(1), torch.zeros(1)).item(), 5)
    1.38629
    """
    return -F.logsigmoid(beta * chosen_logratios) - F.logsigmoid(-beta * rejected_logratios)


@register("sppo_hard", source="SPPO, arXiv 2405.00675, eq. 4.7 with P = 1 and 0; β = 1/η = 0.001 as in its experiments")
def sppo_hard(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.001) -> Tensor:
    """SPPO with hard labels: (r̂⁺ − 1/(2β))² + (r̂⁻ + 1/(2β))².

    >>> sppo_hard(torch.tensor([5.0]), torch.tensor([-5.0]), beta=0.1).item()
    0.0
    """
    return (chosen_logratios - 0.5 / beta) ** 2 + (rejected_logratios + 0.5 / beta) ** 2


@register("apo_zero", source="APO, arXiv 2408.06266, eq. 7")
def apo_zero(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """APO-zero, for responses better than the model's own: raise chosen, lower rejected.

    >>> apo_zero(torch.zeros(1), torch.zeros(1)).item()
    1.0
    """
    return torch.sigmoid(-beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)


@register("apo_down", source="APO, arXiv 2408.06266, eq. 8")
def apo_down(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """APO-down, for responses worse than the model's own: lower both, the rejected one more.

    >>> apo_down(torch.zeros(1), torch.zeros(1)).item()
    1.0
    """
    return torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(-beta * (chosen_logratios - rejected_logratios))


@register("cal_dpo", source="Cal-DPO, arXiv 2412.14516, eq. 10; the factor ½ and β = 0.001 as in its authors' code")
def cal_dpo(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.001) -> Tensor:
    """Cal-DPO: −log σ(r̂⁺ − r̂⁻) + ½ [(r̂⁺ − 1/(2β))² + (r̂⁻ + 1/(2β))²]: log-ratios are drawn to ±1/(2β).

    The paper's equation has the calibration term without the ½.

    >>> cal_dpo(torch.tensor([6.0]), torch.tensor([-5.0]), beta=0.1).item()
    0.5000166893005371
    """
    calibration = sppo_hard(chosen_logratios, rejected_logratios, beta=beta)
    return -F.logsigmoid(chosen_logratios - rejected_logratios) + 0.5 * calibration


@register("kto", source="KTO, arXiv 2402.01306, eq. 7; both ends of an edge as single examples", batchwise=True)
def kto(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO over the edges' ends, its reference point z₀ the batch's mean log-ratio, clamped at 0 and detached.

    >>> kto(torch.zeros(2), torch.zeros(2)).tolist()
    [1.0, 1.0]
    """
    kl = (
        (torch.cat([chosen_logratios, rejected_logratios]).mean() if len(chosen_logratios) else chosen_logratios.sum())
        .clamp(min=0)
        .detach()
    )
    desirable = kto_unpaired(chosen_logratios, torch.ones_like(chosen_logratios, dtype=torch.bool), kl, beta=beta)
    undesirable = kto_unpaired(rejected_logratios, torch.zeros_like(rejected_logratios, dtype=torch.bool), kl, beta=beta)
    return desirable_weight * desirable + undesirable_weight * undesirable


def kto_unpaired(logratios: Tensor, desirable: Tensor, kl: Tensor | float, *, beta: float = 0.1) -> Tensor:
    """KTO on single labelled responses (arXiv 2402.01306, eq. 7): 1 − σ(±β(r̂ − z₀)).

    Args:
        logratios: `[responses]`, log π − log π₀.
        desirable: `[responses]`, bool.
        kl: the reference point z₀, a scalar in nats.
        beta: reward per nat.

    Returns:
        `[responses]`.

    >>> kto_unpaired(torch.zeros(2), torch.tensor([True, False]), 0.0).tolist()
    [0.5, 0.5]
    """
    sign = torch.where(desirable, 1.0, -1.0)
    return torch.sigmoid(-beta * sign * (logratios - kl))


@register("aot", source="AOT, arXiv 2406.05882, paired variant", batchwise=True)
def aot(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """AOT, paired: the sorted policy margins are to dominate the sorted reference margins.

    >>> aot(torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(2)).tolist()
    [0.6931471824645996, 0.6931471824645996]
    """
    policy = torch.sort(chosen_logps - rejected_logps).values
    reference = torch.sort(ref_chosen_logps - ref_rejected_logps).values
    delta = beta * (policy - reference)
    return -F.logsigmoid(delta) * (1 - label_smoothing) - F.logsigmoid(-delta) * label_smoothing


@register("aot_unpaired", source="AOT, arXiv 2406.05882, unpaired variant", batchwise=True)
def aot_unpaired(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """AOT, unpaired: the sorted chosen rewards are to dominate the sorted rejected ones.

    >>> aot_unpaired(torch.tensor([0.0, 10.0]), torch.tensor([10.0, 0.0])).tolist()
    [0.6931471824645996, 0.6931471824645996]
    """
    delta = beta * (torch.sort(chosen_logratios).values - torch.sort(rejected_logratios).values)
    return -F.logsigmoid(delta) * (1 - label_smoothing) - F.logsigmoid(-delta) * label_smoothing
