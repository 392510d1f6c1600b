"""Records of tokens → one packed row, and the batch sampler that fills rows to a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from align.engine import TokenTree, TreeBatch, pack
from align.engine.tokenize import truncate
from align.errors import AlignError

TREE_COLUMNS = ("node_ids", "node_parents", "edges", "edge_weights", "edge_margins")
PAIR_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def token_tree(example: Mapping[str, Any]) -> TokenTree:
    """A tokenized record, pair or tree, as a token tree."""
    if "prompt_ids" in example:
        runs = [example[column] for column in PAIR_COLUMNS]
        return TokenTree(runs, [-1, 0, 0], [(1, 2)], [1.0], [0.0])
    edges = [(chosen, rejected) for chosen, rejected in example["edges"]]
    return TokenTree(example["node_ids"], example["node_parents"], edges, example["edge_weights"], example["edge_margins"])


def record_of(tree: TokenTree) -> dict[str, Any]:
    """A token tree as a record of a data set."""
    edges = [list(edge) for edge in tree.edges]
    values = (tree.tokens, tree.parents, edges, tree.weights, tree.margins)
    return {column: list(value) for column, value in zip(TREE_COLUMNS, values, strict=True)}


@dataclass
class TreeCollator:
    """Packs tokenized records into one row.

    Attributes:
        max_length, truncation_mode: see `align.engine.tokenize.truncate`.
        score_free: also score leaves without an edge.
        reads_margins: whether the loss reads the edges' margins.
    """

    max_length: int | None = None
    truncation_mode: str = "keep_start"
    score_free: bool = False
    reads_margins: bool = True

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns `trees` (a `TreeBatch`), `edge_weights` `[E]` (whose length tells the trainer's evaluation loop the
        batch size), and `input_ids` `[1, T]`."""
        batch = self.pack([token_tree(example) for example in examples])
        return {"edge_weights": batch.weights, "input_ids": batch.input_ids, "trees": batch}

    def pack(self, trees: Sequence[TokenTree]) -> TreeBatch:
        """Truncate and pack.

        Raises:
            AlignError: an edge has a margin that no loss reads.
        """
        if not self.reads_margins and any(margin for tree in trees for margin in tree.margins):
            raise AlignError(
                "an edge has a `margin`, which none of the losses in `loss_type` reads: use sigmoid, flex or hinge, or leave it out"
            )
        return pack([self.truncated(tree) for tree in trees], self.score_free)

    def truncated(self, tree: TokenTree) -> TokenTree:
        """The tree cut to `max_length`."""
        return truncate(tree, self.max_length, self.truncation_mode)


def trees_from_padded_pairs(inputs: Mapping[str, torch.Tensor]) -> list[TokenTree]:
    """A batch of trl's `DataCollatorForPreference` (chosen rows, then rejected rows) as token trees.

    Lets a data collator written for trl.DPOTrainer work unchanged. A pair whose two prompts differ (cut at different
    ends) becomes a tree with an empty prompt.
    """
    ids = inputs["input_ids"].tolist()
    attention, completion = inputs["attention_mask"].tolist(), inputs["completion_mask"].tolist()
    half = len(ids) // 2

    def split(row: int) -> tuple[list[int], list[int]]:
        kept = [(t, c) for t, a, c in zip(ids[row], attention[row], completion[row], strict=True) if a]
        return [t for t, c in kept if not c], [t for t, c in kept if c]

    trees = []
    for row in range(half):
        (prompt, chosen), (other, rejected) = split(row), split(row + half)
        if prompt == other:
            trees.append(TokenTree([prompt, chosen, rejected], [-1, 0, 0], [(1, 2)], [1.0], [0.0]))
        else:
            trees.append(TokenTree([[], prompt, other, chosen, rejected], [-1, 0, 0, 1, 2], [(3, 4)], [1.0], [0.0]))
    return trees


def tree_size(tree: TokenTree, max_length: int | None) -> int:
    """Tokens that a tree takes in a row, at most."""
    total = sum(len(run) for run in tree.tokens)
    return total if max_length is None else min(total, max_length * len(tree.tokens))


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches of trees whose rows hold at most `budget` tokens.

    First-fit-decreasing over windows of shuffled trees fills the rows; rows are then dealt in groups of `ranks` of
    like size, so that ranks finish together. The order depends on seed and epoch alone.
    """

    def __init__(self, sizes: Sequence[int], budget: int, ranks: int = 1, seed: int = 0, window: int = 256) -> None:
        """Args: sizes in tokens of every tree; budget in tokens; ranks that share the batches in turn."""
        self.sizes, self.budget, self.ranks, self.seed, self.window = sizes, budget, ranks, seed, window
        self.epoch = 0
        self.batch_size = None
        self.drop_last = False
        self.sampler = self  # where accelerate looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently from the next iteration on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.sizes), generator=generator).tolist()
        rows: list[list[int]] = []
        for start in range(0, len(order), self.window):
            rows += self._fill(order[start : start + self.window])
        rows.sort(key=self._cost, reverse=True)
        while len(rows) % self.ranks:  # every rank takes part in every step: split a row, or repeat one tree
            largest = max(rows, key=len)
            if len(largest) > 1:
                rows.append([largest.pop()])
            else:
                rows.append(list(rows[len(rows) % self.ranks]))
        rows.sort(key=self._cost, reverse=True)
        groups = [rows[i : i + self.ranks] for i in range(0, len(rows), self.ranks)]
        shuffled = torch.randperm(len(groups), generator=generator).tolist()
        return [row for g in shuffled for row in groups[g]]

    def _cost(self, row: list[int]) -> int:
        return sum(self.sizes[i] for i in row)

    def _fill(self, indices: list[int]) -> list[list[int]]:
        rows: list[tuple[int, list[int]]] = []
        for i in sorted(indices, key=lambda i: self.sizes[i], reverse=True):
            for place, (used, members) in enumerate(rows):
                if used + self.sizes[i] <= self.budget:
                    members.append(i)
                    rows[place] = (used + self.sizes[i], members)
                    break
            else:
                rows.append((self.sizes[i], [i]))
        return [members for _, members in rows]
