"""Losses on the difference of implicit rewards, r̂ = log π(y|x) − log π₀(y|x).

In all of them `chosen_scores`, `rejected_scores`: `[edges]`, the log-ratio of each end (or its f-divergence score);
`beta`: the reward's scale, in reward per nat; result: `[edges]`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.losses.numerics import exp_linear
from align.losses.registry import register


@register("sigmoid", source="DPO, arXiv 2305.18290, eq. 7; margin: ODPO, arXiv 2402.10571, eq. 7")
def sigmoid(chosen_scores: Tensor, rejected_scores: Tensor, margins: Tensor | float = 0.0, *, beta: float = 0.1) -> Tensor:
    """DPO: −log σ(β(r̂⁺ − r̂⁻) − margin).

    >>> sigmoid(torch.tensor([10.0]), torch.tensor([0.0])).item()
    0.3132616877555847
    """
    return -F.logsigmoid(beta * (chosen_scores - rejected_scores) - margins)


@register("flex", source="3D-properties, arXiv 2406.07327, Flex-DPO")
def flex(
    chosen_scores: Tensor, rejected_scores: Tensor, margins: Tensor | float = 0.0, *, beta: float = 0.1, beta_rejected: float = 0.08
) -> Tensor:
    """Flex-DPO: −log σ(β⁺ r̂⁺ − β⁻ r̂⁻ − margin), β⁻ < β⁺: more of the loss has to be paid for by raising the chosen likelihood.

    In the toy study (`align study 3d`) the chosen likelihood ends higher and the unseen mass lower in all four scenarios. The
    rejected likelihood falls less where the chosen response is off-policy; where it is on-policy, it falls no less than under DPO
    (16 orders of magnitude instead of 13): there an SFT term is what slows it.

    >>> round(flex(torch.tensor([0.0]), torch.tensor([-10.0]), beta_rejected=0.05).item(), 5)
    0.47408
    """
    return -F.logsigmoid(beta * chosen_scores - beta_rejected * rejected_scores - margins)


@register("cdpo", source="conservative DPO, E. Mitchell 2023, ericmitchell.ai/cdpo.pdf, eq. 3")
def cdpo(chosen_scores: Tensor, rejected_scores: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """cDPO: −(1 − ε) log σ(βΔ) − ε log σ(−βΔ), ε the share of flipped labels.

    >>> cdpo(torch.tensor([0.0]), torch.tensor([0.0])).item()
    0.6931471824645996
    """
    delta = beta * (chosen_scores - rejected_scores)
    return -(1 - label_smoothing) * F.logsigmoid(delta) - label_smoothing * F.logsigmoid(-delta)


@register("robust", source="Robust DPO, arXiv 2403.00409, eq. 12")
def robust(chosen_scores: Tensor, rejected_scores: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Robust DPO: the unbiased estimate of DPO's loss when a share ε < ½ of the labels is flipped.

    >>> robust(torch.tensor([0.0]), torch.tensor([0.0]), label_smoothing=0.1).item()
    0.6931471824645996
    """
    delta = beta * (chosen_scores - rejected_scores)
    clean, flipped = -F.logsigmoid(delta), -F.logsigmoid(-delta)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


@register("hinge", source="SLiC-HF, arXiv 2305.10425, eq. 1, on normalised log-probs as in RSO, arXiv 2309.06657")
def hinge(chosen_scores: Tensor, rejected_scores: Tensor, margins: Tensor | float = 0.0, *, beta: float = 0.1) -> Tensor:
    """SLiC: max(0, 1 + margin − β(r̂⁺ − r̂⁻)).

    >>> hinge(torch.tensor([5.0]), torch.tensor([0.0])).item()
    0.5
    """
    return torch.relu(1 + margins - beta * (chosen_scores - rejected_scores))


@register("ipo", source="IPO, arXiv 2310.12036, eq. 17; per token, as its authors confirmed to TRL")
def ipo(chosen_scores: Tensor, rejected_scores: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, *, beta: float = 0.1) -> Tensor:
    """IPO: (r̂⁺/|y⁺| − r̂⁻/|y⁻| − 1/(2β))², β the paper's τ.

    >>> one = torch.ones(1)
    >>> ipo(5 * one, 0 * one, one, one).item()
    0.0
    """
    delta = chosen_scores / chosen_lengths.clamp(min=1) - rejected_scores / rejected_lengths.clamp(min=1)
    return (delta - 1 / (2 * beta)) ** 2


@register("sigmoid_norm", source="length-normalised DPO, Tülu 3, arXiv 2411.15124, eq. 6")
def sigmoid_norm(
    chosen_scores: Tensor, rejected_scores: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, *, beta: float = 0.1
) -> Tensor:
    """−log σ(β r̂⁺/|y⁺| − β r̂⁻/|y⁻|).

    >>> sigmoid_norm(torch.tensor([20.0]), torch.tensor([0.0]), torch.tensor([2]), torch.tensor([1])).item()
    0.3132616877555847
    """
    delta = chosen_scores / chosen_lengths.clamp(min=1) - rejected_scores / rejected_lengths.clamp(min=1)
    return -F.logsigmoid(beta * delta)


@register("length_margin", source="R-DPO, arXiv 2403.19159, eq. 9")
def length_margin(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 0.1,
    length_alpha: float = 0.01,
) -> Tensor:
    """R-DPO: −log σ(β(r̂⁺ − r̂⁻) + α(|y⁺| − |y⁻|)): what length explains need not be learnt.

    `length_alpha`: reward a token.

    >>> length_margin(torch.zeros(1), torch.zeros(1), torch.tensor([110]), torch.tensor([10])).item()
    0.3132616877555847
    """
    return -F.logsigmoid(beta * (chosen_scores - rejected_scores) + length_alpha * (chosen_lengths - rejected_lengths))


@register("exo_pair", source="EXO, arXiv 2402.00856, eq. 16")
def exo_pair(chosen_scores: Tensor, rejected_scores: Tensor, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """EXO: KL(p_π ‖ p_r) over the pair, p_π = softmax of the rewards, p_r = (1 − ε, ε).

    >>> round(exo_pair(torch.tensor([0.0]), torch.tensor([0.0]), label_smoothing=0.5).item(), 6)
    0.0
    """
    delta = beta * (chosen_scores - rejected_scores)
    epsilon = torch.as_tensor(label_smoothing, dtype=delta.dtype, device=delta.device)
    win = torch.sigmoid(delta) * (F.logsigmoid(delta) - torch.log1p(-epsilon))
    lose = torch.sigmoid(-delta) * (F.logsigmoid(-delta) - torch.log(epsilon))
    return win + lose


@register("discopop", source="DiscoPOP, arXiv 2406.08414, eq. 5; β = 0.05 and τ = 0.05 as in its experiments")
def discopop(chosen_scores: Tensor, rejected_scores: Tensor, *, beta: float = 0.05, discopop_tau: float = 0.05) -> Tensor:
    """DiscoPOP: a blend of the logistic and the exponential loss, mixed by σ(βΔ/τ).

    The exponential is weighed in log space, so that a strongly negative Δ gives 0 and not 0 · ∞.

    >>> discopop(torch.tensor([0.0]), torch.tensor([0.0])).item()
    0.8465735912322998
    """
    delta = beta * (chosen_scores - rejected_scores)
    logistic = -F.logsigmoid(delta) * torch.sigmoid(-delta / discopop_tau)
    exponential = exp_linear(F.logsigmoid(delta / discopop_tau) - delta)
    return logistic + exponential


@register("dpo_positive", source="DPO-Positive, arXiv 2402.13228, eq. 3")
def dpo_positive(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1, dpop_lambda: float = 50.0) -> Tensor:
    """DPO-Positive: −log σ(β(r̂⁺ − r̂⁻ − λ max(0, −r̂⁺))): a fall of the chosen likelihood is penalised.

    >>> round(dpo_positive(torch.tensor([-1.0]), torch.tensor([-1.0]), dpop_lambda=10.0).item(), 5)
    1.31326
    """
    penalty = torch.relu(-chosen_logratios)
    return -F.logsigmoid(beta * (chosen_logratios - rejected_logratios - dpop_lambda * penalty))


@register("rpo", source="RPO, arXiv 2404.19733, eq. 1: DPO with an NLL anchor per token")
def rpo(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    chosen_logps: Tensor,
    chosen_lengths: Tensor,
    *,
    beta: float = 0.1,
    rpo_alpha: float = 1.0,
) -> Tensor:
    """RPO: −log σ(β(r̂⁺ − r̂⁻)) − α log π(y⁺|x)/|y⁺|.

    >>> rpo(torch.zeros(1), torch.zeros(1), torch.tensor([-4.0]), torch.tensor([4])).item()
    1.6931471824645996
    """
    return -F.logsigmoid(beta * (chosen_scores - rejected_scores)) - rpo_alpha * chosen_logps / chosen_lengths.clamp(min=1)


@register("bdpo", source="Bounded DPO, arXiv 2506.12725, sec. 4")
def bdpo(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float = 0.1, bdpo_lambda: float = 0.5) -> Tensor:
    """BDPO: the rejected policy is mixed with the reference, π_mix = λπ + (1 − λ)π₀, which bounds its term from below.

    >>> bdpo(torch.zeros(1), torch.tensor([-1e4])).isfinite().item()
    True
    """
    log_lambda, log_rest = torch.log(torch.tensor([bdpo_lambda, 1 - bdpo_lambda], dtype=rejected_logratios.dtype)).tolist()
    mixed = torch.logaddexp(rejected_logratios + log_lambda, torch.full_like(rejected_logratios, log_rest))
    return -F.logsigmoid(beta * (chosen_logratios - mixed))
