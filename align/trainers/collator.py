"""Records of tokens → one packed row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from align.engine import Layout, TokenTree, TreeBatch, pack
from align.engine.tokenize import truncate
from align.errors import AlignError

TREE_COLUMNS = ("node_ids", "node_parents", "edges", "edge_weights", "edge_margins")
PAIR_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def token_tree(example: Mapping[str, Any]) -> TokenTree:
    """A tokenized record, pair or tree, as a token tree."""
    if "prompt_ids" in example:
        runs = [example[column] for column in PAIR_COLUMNS]
        return TokenTree(runs, [-1, 0, 0], [(1, 2)], example.get("edge_weights") or [1.0], example.get("edge_margins") or [0.0])
    edges = [(chosen, rejected) for chosen, rejected in example["edges"]]
    return TokenTree(example["node_ids"], example["node_parents"], edges, example["edge_weights"], example["edge_margins"])


def record_of(tree: TokenTree) -> dict[str, Any]:
    """A token tree as a record of a data set."""
    edges = [list(edge) for edge in tree.edges]
    values = (tree.tokens, tree.parents, edges, tree.weights, tree.margins)
    return {column: list(value) for column, value in zip(TREE_COLUMNS, values, strict=True)}


def pair_record_of(tree: TokenTree) -> dict[str, Any]:
    """The token tree of a pair as a record in trl's columns, with its weight and margin."""
    runs = {column: list(run) for column, run in zip(PAIR_COLUMNS, tree.tokens, strict=True)}
    return {**runs, "edge_weights": list(tree.weights), "edge_margins": list(tree.margins)}


@dataclass
class TreeCollator:
    """Packs tokenized records into one row.

    Attributes:
        max_length, truncation_mode: see `align.engine.tokenize.truncate`.
        score_free: also score leaves without an edge.
        reads_margins: whether the loss reads the edges' margins.
        row_length: how long a row is made for the tokens it needs (`align.engine.row_lengths`); None: no padding.
        plans: makes ready what the attention backend reads of a row; None: nothing.
    """

    max_length: int | None = None
    truncation_mode: str = "keep_start"
    score_free: bool = False
    reads_margins: bool = True
    row_length: Callable[[int], int] | None = None
    plans: Callable[[Layout], None] | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns `trees` (a `TreeBatch`), `edge_weights` `[E]` (whose length tells the trainer's evaluation loop the
        batch size), and `input_ids` `[1, T]`."""
        return inputs_of(self.pack([token_tree(example) for example in examples]))

    def pack(self, trees: Sequence[TokenTree]) -> TreeBatch:
        """Truncate and pack.

        Raises:
            AlignError: an edge has a margin that no loss reads.
        """
        if not self.reads_margins and any(margin for tree in trees for margin in tree.margins):
            raise AlignError(
                "an edge has a `margin`, which none of the losses in `loss_type` reads: use sigmoid, flex or hinge, or leave it out"
            )
        return self.packed([self.truncated(tree) for tree in trees])

    def packed(self, trees: Sequence[TokenTree]) -> TreeBatch:
        """Pack trees as they are, ready for the attention backend."""
        batch = pack(trees, self.score_free, self.row_length)
        if self.plans is not None:
            self.plans(batch.layout)
        return batch

    def truncated(self, tree: TokenTree) -> TokenTree:
        """The tree cut to `max_length`."""
        return truncate(tree, self.max_length, self.truncation_mode)


def inputs_of(batch: TreeBatch) -> dict[str, Any]:
    """A batch in the form that Trainer hands around."""
    return {"edge_weights": batch.weights, "input_ids": batch.input_ids, "trees": batch}


def collate(collator: Callable[[Sequence[Any]], dict[str, Any]], examples: Sequence[Any]) -> dict[str, Any]:
    """A batch by any collator; of no examples, the batch of a rank that has nothing to do."""
    return collator(examples) if examples else inputs_of(idle_batch(collator if isinstance(collator, TreeCollator) else TreeCollator()))


def idle_batch(collator: TreeCollator) -> TreeBatch:
    """What a rank without a tree of its own scores, so that it takes part in every collective call: two tokens that count nowhere."""
    batch = replace(collator, score_free=True).packed([TokenTree([[0], [0]], [-1, 0], [], [], [])])
    ones = torch.ones_like(batch.multiplicity)  # no router loss of no token
    return replace(batch, free=batch.free[:0], counts=torch.zeros_like(batch.counts), multiplicity=ones)


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
