"""Which trees go together in a batch, and to which rank: whole rounds, one batch a rank, each tree once an epoch."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as compute
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset, Sampler

from align.engine import TokenTree
from align.trainers.collator import PAIR_COLUMNS, token_tree

_AT_ONCE = 1000  # trees whose lengths are read together


def tree_size(tree: TokenTree, max_length: int | None) -> int:
    """Tokens that a tree takes in a row, at most."""
    total = sum(len(run) for run in tree.tokens)
    return total if max_length is None else min(total, max_length * len(tree.tokens))


def tree_sizes(dataset: Dataset, max_length: int | None) -> list[int]:
    """`tree_size` of every tree of a tokenized data set, from the lengths of its lists: no token is read."""
    columns = [name for name in PAIR_COLUMNS if name in dataset.column_names] or ["node_ids"]
    if dataset.format["type"] == "custom" or not set(columns) <= set(dataset.column_names):  # columns that are made when they are read
        return [tree_size(token_tree(example), max_length) for example in dataset]
    sizes: list[int] = []
    for table in dataset.select_columns(columns).with_format("arrow").iter(_AT_ONCE):
        if columns == ["node_ids"]:
            lists = table.column(0).combine_chunks()
            nodes, runs = _lengths(lists), _lengths(compute.list_flatten(lists))
            tokens = np.bincount(compute.list_parent_indices(lists), runs, len(table)).astype(np.int64)
        else:
            nodes = np.full(len(table), len(columns))
            tokens = np.sum([_lengths(table.column(name)) for name in columns], axis=0)
        sizes += (tokens if max_length is None else np.minimum(tokens, max_length * nodes)).tolist()
    return sizes


def _lengths(lists: Any) -> np.ndarray:
    return np.asarray(compute.fill_null(compute.list_value_length(lists), 0).to_numpy(zero_copy_only=False), np.int64)


class _Rounds(Sampler[list[int]]):
    """Batches in rounds of one a rank, as accelerate deals them out. An empty batch leaves its rank nothing but to take part.

    Attributes:
        sampler: where accelerate looks for the order, and for `set_epoch`.
    """

    batch_size = None  # batches differ in size
    drop_last = False
    sampler: object


class BalancedBatches(_Rounds):
    """Rounds of `ranks * count` trees in a given order; each round is dealt so that ranks have about as many tokens each.

    A round is made of the same trees whatever the number of ranks, if `ranks * count` is the same: so is the loss of a step.
    """

    def __init__(self, order: Sampler[int], sizes: Sequence[int], count: int, ranks: int, drop_last: bool = False) -> None:
        """Args: the trees' order, and sizes in tokens; trees a rank, on average; ranks; whether to leave out a round that is not full."""
        self.sampler, self.sizes, self.count, self.ranks, self._whole = order, sizes, count, ranks, drop_last

    def __len__(self) -> int:
        trees, each = len(self.sampler), self.count * self.ranks  # type: ignore[arg-type]
        return self.ranks * (trees // each if self._whole else -(-trees // each))

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)  # type: ignore[call-overload]
        while round_ := list(islice(order, self.count * self.ranks)):
            if not self._whole or len(round_) == self.count * self.ranks:
                yield from deal(round_, self.sizes, self.ranks)


class DealtStream(IterableDataset[list[Any]]):
    """One rank's hands of a stream that all ranks read: rounds of `ranks * count` examples, dealt as by `BalancedBatches`."""

    def __init__(
        self, examples: Iterable[Any], size: Callable[[Any], int], count: int, rank: int, ranks: int, drop_last: bool = False
    ) -> None:
        """Args: the stream; an example's size in tokens; examples a rank, on average; this rank; ranks; whether to leave out a round
        that is not full."""
        self.examples, self.size, self.count, self.rank, self.ranks, self._whole = examples, size, count, rank, ranks, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Hand on to the stream, which shuffles by it."""
        if hasattr(self.examples, "set_epoch"):
            self.examples.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Any]]:
        stream = iter(self.examples)
        while round_ := list(islice(stream, self.count * self.ranks)):
            if not self._whole or len(round_) == self.count * self.ranks:
                mine = deal(range(len(round_)), [self.size(example) for example in round_], self.ranks)[self.rank]
                yield [round_[place] for place in mine]


class TokenBudgetBatches(_Rounds):
    """Rows of trees that hold at most `budget` tokens, in steps of `step` rows.

    First-fit-decreasing over windows of shuffled trees fills the rows; a step's rows are of like size, so that ranks finish
    together. Which trees a step holds depends on seed, epoch and `step` alone, not on the number of ranks.
    """

    def __init__(self, sizes: Sequence[int], budget: int, step: int = 1, ranks: int = 1, seed: int = 0, window: int = 256) -> None:
        """Args: sizes in tokens of every tree; budget in tokens; rows an optimizer step, a multiple of the ranks that share them."""
        self.sizes, self.budget, self.step, self.ranks, self.seed, self.window = sizes, budget, step, ranks, seed, window
        self.epoch = 0
        self.sampler = self

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
        steps = [rows[i : i + self.step] for i in range(0, len(rows), self.step)]
        rest = steps.pop() if len(steps[-1]) < self.step else []
        shuffled = torch.randperm(len(steps), generator=generator).tolist()
        return [row for number in shuffled for row in steps[number]] + self._whole_rounds(rest)

    def _whole_rounds(self, rows: list[list[int]]) -> list[list[int]]:
        """An epoch's last step, of fewer rows than the others: a row more for each rank that has none, split off or empty."""
        while len(rows) % self.ranks:
            largest = max(rows, key=len)
            rows.append([largest.pop()] if len(largest) > 1 else [])
        return rows

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


def deal(trees: Iterable[int], sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Trees to ranks, the longest first, each to the rank that has the fewest tokens so far.

    >>> deal([0, 1, 2, 3], [5, 9, 3, 4], 2)
    [[1, 2], [0, 3]]
    """
    hands: list[list[int]] = [[] for _ in range(ranks)]
    least = [(0, rank) for rank in range(ranks)]
    for tree in sorted(trees, key=lambda tree: -sizes[tree]):
        used, rank = heapq.heappop(least)
        hands[rank].append(tree)
        heapq.heappush(least, (used + sizes[tree], rank))
    return hands
