"""From token log-probs to the loss: edge tensors, the losses summed, and the counts that a whole step divides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from align.engine import TreeBatch, node_sums
from align.losses import Loss, evaluate, f_divergence_score, wpo_weights

NORMALIZERS = ("edge", "chosen_token", "free_node")
"""What losses are averaged over, in the order of `TreeBatch.counts`."""


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        losses: with their weights.
        hyperparameters: by the losses' argument names; `beta` is β⁺, None where each loss has its own default.
        f_divergence, f_alpha: see `f_divergence_score`.
        ld_alpha: LD-DPO's weight (arXiv 2409.06411) of tokens beyond the shorter response's length; None leaves it out.
        wpo: weigh edges by WPO.
        wpo_max_weight: largest weight of an edge under WPO; None leaves it unclamped.
    """

    losses: list[tuple[Loss, float]]
    hyperparameters: Mapping[str, float | None]
    f_divergence: str = "reverse_kl"
    f_alpha: float = 0.5
    ld_alpha: float | None = None
    wpo: bool = False
    wpo_max_weight: float | None = 1.0

    def beta_of(self, loss: Loss) -> float:
        """β⁺ of one of the losses: the user's, else the loss's own; for a loss without β, `reward_scale`."""
        given = self.hyperparameters.get("beta")
        own = given if given is not None else loss.default_beta
        return self.reward_scale if own is None else own

    @property
    def reward_scale(self) -> float:
        """β of the logged rewards: the user's, else that of the first loss that has one, else trl's 0.1."""
        given = self.hyperparameters.get("beta")
        defaults = [loss.default_beta for loss, _ in self.losses if loss.default_beta is not None]
        return given if given is not None else [*defaults, 0.1][0]

    @property
    def needs_reference(self) -> bool:
        """Whether any loss reads the reference's log-probs."""
        return any(loss.needs_reference for loss, _ in self.losses)

    @property
    def reads_margins(self) -> bool:
        """Whether any loss reads the edges' margins."""
        return any("margins" in loss.tensors for loss, _ in self.losses)

    @property
    def scores_free_nodes(self) -> bool:
        """Whether any loss reads responses without an edge."""
        return any(loss.per == "free_node" for loss, _ in self.losses)


def edge_tensors(logps: Tensor, ref_logps: Tensor | None, batch: TreeBatch, objective: Objective) -> dict[str, Tensor]:
    """The tensors that losses ask for by name (`align.losses.registry`).

    Args:
        logps: `[S]`, the policy's token log-probs.
        ref_logps: `[S]`, the reference's; None leaves out all that needs them.
        batch: the packed trees.
        objective: for its f-divergence and `ld_alpha`.
    """
    tensors: dict[str, Tensor] = {"margins": batch.margins}
    sides = {"chosen": batch.chosen, "rejected": batch.rejected}
    for side, nodes in sides.items():
        tensors[f"{side}_lengths"] = batch.node_lengths[nodes]
    for side in sides:
        tensors[f"{side}_logps"] = _edge_logps(logps, side, batch, objective.ld_alpha)
    if ref_logps is None:
        return tensors
    for side in sides:
        tensors[f"ref_{side}_logps"] = _edge_logps(ref_logps, side, batch, objective.ld_alpha)
        ratios = tensors[f"{side}_logps"] - tensors[f"ref_{side}_logps"]
        tensors[f"{side}_logratios"] = ratios
        tensors[f"{side}_scores"] = f_divergence_score(ratios, objective.f_divergence, objective.f_alpha)
    tensors["free_logratios"] = (node_sums(logps, batch) - node_sums(ref_logps, batch))[batch.free]
    return tensors


def _edge_logps(token_logps: Tensor, side: str, batch: TreeBatch, ld_alpha: float | None) -> Tensor:
    """`[E]`: log-probs of one end of every edge; under LD-DPO its tail beyond the other's length counts `ld_alpha`."""
    nodes = getattr(batch, side)
    sums = node_sums(token_logps, batch)
    if ld_alpha is None or not len(nodes):
        return sums[nodes]
    shared = torch.minimum(batch.node_lengths[batch.chosen], batch.node_lengths[batch.rejected])
    starts = (batch.node_lengths.cumsum(0) - batch.node_lengths)[nodes]  # scored tokens stand node after node
    running = torch.nn.functional.pad(token_logps.double().cumsum(0), (1, 0))  # in float64: differences of it lose no digit
    head = (running[starts + shared] - running[starts]).to(sums.dtype)
    return head + ld_alpha * (sums[nodes] - head)


def loss_sums(tensors: Mapping[str, Tensor], batch: TreeBatch, objective: Objective, beta_rejected: float | None) -> Tensor:
    """The weighted sum of every loss, by what it is averaged over: `[3]`, in the order of `NORMALIZERS`.

    Args:
        tensors: from `edge_tensors`, `edge_weights` (WPO) among them if used.
        batch: the packed trees.
        objective: losses and hyperparameters.
        beta_rejected: β⁻ of Flex-DPO; a loss without that argument gets its rejected rewards scaled by β⁻/β⁺.
    """
    weights = batch.weights * tensors["wpo_weights"] if objective.wpo else batch.weights
    totals = [torch.zeros((), device=batch.weights.device) for _ in NORMALIZERS]
    for loss, share in objective.losses:
        hyperparameters = dict(objective.hyperparameters)
        inputs = tensors
        if beta_rejected is not None:
            hyperparameters["beta_rejected"] = beta_rejected
            if "beta_rejected" not in loss.hyperparameters:
                inputs = {k: v * (beta_rejected / objective.beta_of(loss)) if k in _REJECTED else v for k, v in tensors.items()}
        values = evaluate(loss, inputs, hyperparameters)
        place = NORMALIZERS.index(loss.per)
        totals[place] = totals[place] + share * (values.sum() if loss.per == "free_node" else (values * weights).sum())
    return torch.stack(totals)


_REJECTED = {"rejected_logps", "ref_rejected_logps", "rejected_logratios", "rejected_scores"}


def edge_wpo_weights(logps: Tensor, log_sum_sq: Tensor, batch: TreeBatch, max_weight: float | None) -> Tensor:
    """`[E]`: WPO's weight of every edge, the product of its ends' (arXiv 2406.11827, eq. 2), at most `max_weight`."""
    weights = wpo_weights(node_sums(logps, batch), node_sums(log_sum_sq, batch), batch.node_lengths)
    products = weights[batch.chosen] * weights[batch.rejected]
    return products if max_weight is None else products.clamp(max=max_weight)


def normalize(sums: Tensor, step_counts: Tensor) -> Tensor:
    """The loss: each sum over its count (0 where nothing was counted)."""
    return (sums / step_counts.clamp(min=1e-12)).where(step_counts > 0, torch.zeros_like(sums)).sum()
