"""Sums and counts of the training metrics, kept on the device and reduced over ranks only when something is logged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from align.engine import TreeBatch, TreeOutput, node_sums
from align.trainers.objective import NORMALIZERS


class MetricSums:
    """Weighted means over everything since the last log, right for batches of unequal size."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add `total`, a sum over `count` items."""
        pair = torch.stack([total.detach().float(), count.detach().to(total.device).float()])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def collect(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all ranks, by name; starts afresh. `reduce` sums a tensor over ranks."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        totals = reduce(torch.stack([self._sums[name] for name in names])).tolist()
        self._sums = {}
        return {name: total / count if count else 0.0 for name, (total, count) in zip(names, totals, strict=True)}

    def state(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, list[float]]:
        """Sums and counts over all ranks, by name, as they are now; `reduce` sums a tensor over ranks."""
        names = sorted(self._sums)
        totals = reduce(torch.stack([self._sums[name] for name in names])).tolist() if names else []
        return dict(zip(names, totals, strict=True))

    def take_up(self, state: dict[str, list[float]], device: torch.device, share: float) -> None:
        """Go on from what `state` gave; this rank counts a share of it."""
        self._sums = {name: torch.tensor(pair, device=device) * share for name, pair in state.items()}


def add_loss(metrics: MetricSums, sums: Tensor, counts: Tensor) -> None:
    """The loss of one batch, as sums and counts by what they are averaged over (`NORMALIZERS`)."""
    for name, total, count in zip(NORMALIZERS, sums, counts, strict=True):
        metrics.add(f"{_LOSS}{name}", total, count)


def take_loss(means: dict[str, float]) -> float:
    """The loss over everything added, taken out of the collected means."""
    return sum(means.pop(f"{_LOSS}{name}") for name in NORMALIZERS)


_LOSS = "loss per "


def add_batch(
    metrics: MetricSums, scores: TreeOutput, edges: dict[str, Tensor], batch: TreeBatch, beta: float, aux_loss: Tensor | None
) -> None:
    """The metrics of trl.DPOTrainer, by its names, for one batch; means over edges, or over tokens where it is a token's."""
    count = torch.ones_like(batch.weights).sum()
    assert scores.entropy is not None
    assert scores.mean_logits is not None
    assert scores.is_top1 is not None
    lengths = {"chosen": batch.node_lengths[batch.chosen], "rejected": batch.node_lengths[batch.rejected]}
    in_edge = torch.zeros(batch.num_nodes, device=count.device)
    in_edge.index_fill_(0, batch.chosen, 1.0).index_fill_(0, batch.rejected, 1.0)
    metrics.add("entropy", (node_sums(scores.entropy, batch) * in_edge).sum(), (batch.node_lengths * in_edge).sum())
    logits = node_sums(scores.mean_logits, batch)
    for side, nodes in (("chosen", batch.chosen), ("rejected", batch.rejected)):
        metrics.add(f"logits/{side}", logits[nodes].sum(), lengths[side].sum())
        metrics.add(f"logps/{side}", edges[f"{side}_logps"].sum(), count)
    top1 = node_sums(scores.is_top1, batch)
    metrics.add("mean_token_accuracy", top1[batch.chosen].sum(), lengths["chosen"].sum())
    kind = "logratios" if "chosen_logratios" in edges else "logps"
    chosen, rejected = beta * edges[f"chosen_{kind}"].detach(), beta * edges[f"rejected_{kind}"].detach()
    metrics.add("rewards/chosen", chosen.sum(), count)
    metrics.add("rewards/rejected", rejected.sum(), count)
    metrics.add("rewards/accuracies", (chosen > rejected).float().sum(), count)
    metrics.add("rewards/margins", (chosen - rejected).sum(), count)
    if aux_loss is not None:
        working = torch.full_like(aux_loss, not batch.idle)
        metrics.add("aux_loss", aux_loss * working, working)
