"""The fallback without sharing: every root-to-leaf path of a packed row as a right-padded row of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from align.engine.layout import Span, TreeBatch


@dataclass(frozen=True)
class Rows:
    """Padded rows and where the scored tokens' predictors lie in them.

    Attributes:
        inputs: `input_ids`, `attention_mask`, `[paths, longest]`.
        weights: `[paths, longest]`, each row's pair sequences spread on its tokens (0 on padding).
        row, column: `[S]`.
    """

    inputs: dict[str, Tensor]
    weights: Tensor
    row: Tensor
    column: Tensor

    def select(self, states: Tensor) -> Tensor:
        """`[paths, longest, d]` → `[S, d]`. Virtual tokens that prompt tuning puts in front are skipped."""
        virtual = states.shape[1] - self.inputs["input_ids"].shape[1]
        return states[self.row, self.column + virtual]


def rows(batch: TreeBatch) -> Rows:
    """Unroll a packed batch. Right padding is harmless: the models are causal and padding is never read."""
    spans = batch.layout.spans
    parents = {span.parent for span in spans}
    leaves = [n for n, span in enumerate(spans) if n not in parents and span.start < batch.layout.used]
    device = batch.input_ids.device
    row_of_span: dict[int, int] = {-1: 0}
    ids, weights = [], []
    for number, leaf in enumerate(leaves):
        path = batch.layout.path(leaf)
        index = torch.cat([torch.arange(span.start, span.end, device=device) for span in path])
        ids.append(batch.input_ids[0, index])
        weights.append(_leaf_weight(batch, path[-1]).expand(len(index)))
        ancestor = leaf
        while ancestor >= 0:
            row_of_span.setdefault(ancestor, number)
            ancestor = spans[ancestor].parent
    mask = pad_sequence([torch.ones_like(run) for run in ids], batch_first=True)
    row_of_node = torch.tensor([row_of_span[span] for span in batch.node_spans], device=device)
    return Rows(
        inputs={"input_ids": pad_sequence(ids, batch_first=True), "attention_mask": mask},
        weights=pad_sequence(weights, batch_first=True),
        row=row_of_node[batch.token_node],
        column=batch.position_ids[0, batch.predictors],
    )


def _leaf_weight(batch: TreeBatch, leaf: Span) -> Tensor:
    return batch.multiplicity[leaf.start].clamp(min=1.0)
