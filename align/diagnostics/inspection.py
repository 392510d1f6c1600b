"""What a model makes of a preference data set: log-probs and CHES of every edge, each tree in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.diagnostics.ches import ches, normalized_ches
from align.engine import TokenTree, TreeBatch, Wanted, choose_backend, node_sums, pack, tree_scores
from align.engine.attention import Use
from align.engine.generate import sample_responses
from align.engine.row_lengths import RowLengths, rows_within
from align.engine.tokenize import tokenize_tree, truncate
from align.errors import AlignError
from align.sampling import Sampling
from align.trees import Edge, PreferenceTree, Rejected

SCORES = ("ches_normalized", "ches")


@dataclass(frozen=True)
class Inspected:
    """One edge: log-probs in nats a response, lengths in tokens."""

    tree: int
    edge: int
    chosen_logp: float
    rejected_logp: float
    chosen_tokens: int
    rejected_tokens: int
    ches: float
    ches_normalized: float


@dataclass(frozen=True)
class Inspection:
    """A data set under a model: every edge, and the log-probs and lengths of responses that stand in no edge (unseen ones)."""

    edges: list[Inspected]
    unseen_logps: list[float]
    unseen_tokens: list[int]


def tokenize(
    trees: Sequence[PreferenceTree], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> tuple[dict[int, TokenTree], list[Rejected]]:
    """Token trees by the number of their tree, and the trees that cannot be used.

    Args:
        trees: with edges.
        tokenizer: of both models.
        max_length: tokens of a path; longer ones lose their end.
    """
    found: dict[int, TokenTree] = {}
    rejected = []
    for number, tree in enumerate(trees):
        try:
            found[number] = truncate(tokenize_tree(tree, tokenizer), max_length)
        except AlignError as error:
            rejected.append(Rejected(tree.id or f"tree {number}", str(error), tree.prompt))
    return found, rejected


@torch.no_grad()
def inspect(model: Any, trees: dict[int, TokenTree], max_tokens: int = 8192) -> Inspection:
    """Log-probs and CHES of every edge, and log-probs of leaves without one.

    Args:
        model: a causal LM, on its device.
        trees: see `tokenize`.
        max_tokens: of a packed row; a tree with more has a row of its own.
    """
    model.eval()
    choice = choose_backend(model, use=Use.of(model, training=False))
    row_length = RowLengths(max_tokens) if choice.pads_rows else None
    found = Inspection([], [], [])
    for numbers in rows_within(max_tokens, trees, lambda number: sum(map(len, trees[number].tokens))):
        batch = pack([trees[number] for number in numbers], True, row_length).to(model.device)
        scores = tree_scores(model, batch, choice.backend, Wanted(hidden_sums=True))
        assert scores.logps is not None
        assert scores.hidden_sums is not None
        _collect(found, trees, numbers, batch, node_sums(scores.logps, batch), scores.hidden_sums)
    return found


def _collect(found: Inspection, trees: dict[int, TokenTree], numbers: Sequence[int], batch: TreeBatch, logps: Tensor, sums: Tensor) -> None:
    places = [(number, edge) for number in numbers for edge in range(len(trees[number].edges))]
    chosen, rejected, lengths = sums[batch.chosen], sums[batch.rejected], batch.node_lengths.to(sums.dtype)
    columns = (
        logps[batch.chosen], logps[batch.rejected], lengths[batch.chosen], lengths[batch.rejected], ches(chosen, rejected),
        normalized_ches(chosen, rejected, lengths[batch.chosen], lengths[batch.rejected]),
    )  # fmt: skip
    for (number, edge), row in zip(places, torch.stack(columns, 1).double().cpu().tolist(), strict=True):
        found.edges.append(Inspected(number, edge, row[0], row[1], int(row[2]), int(row[3]), row[4], row[5]))
    found.unseen_logps.extend(logps[batch.free].double().cpu().tolist())
    found.unseen_tokens.extend(batch.node_lengths[batch.free].cpu().tolist())


def own_samples(model: Any, tokenizer: Any, trees: dict[int, TokenTree], count: int, max_new_tokens: int = 256) -> dict[int, TokenTree]:
    """One response of the model itself to each of the first prompts: what is on-policy, and nobody trains on."""
    numbers = list(trees)[:count]
    prompts = [trees[number].tokens[0] for number in numbers]
    samples = sample_responses(model, prompts, Sampling(max_new_tokens), tokenizer=tokenizer)
    return {
        number: TokenTree([prompt, list(one.token_ids)], [-1, 0], [], [], [])
        for number, prompt, (one,) in zip(numbers, prompts, samples, strict=True)
        if one.token_ids
    }


def without_highest(
    trees: Sequence[PreferenceTree], edges: Sequence[Inspected], share: float, by: str = "ches_normalized"
) -> list[PreferenceTree]:
    """Trees without the edges of the highest scores; a tree that has no edge left is gone.

    Args:
        trees: the data set.
        edges: its inspection.
        share: of all edges, to drop; 0 to 1. 0.95 keeps the lowest 5%, as the paper of CHES does.
        by: one of `SCORES`.
    """
    ranked = sorted(edges, key=lambda edge: getattr(edge, by), reverse=True)
    dropped = {(edge.tree, edge.edge) for edge in ranked[: round(share * len(ranked))]}
    seen = {edge.tree for edge in edges}
    left = []
    for number, tree in enumerate(trees):
        kept: tuple[Edge, ...] = tuple(edge for place, edge in enumerate(tree.edges) if number in seen and (number, place) not in dropped)
        if kept:
            left.append(replace(tree, edges=kept))
    return left
