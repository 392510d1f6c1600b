"""Token trees → one packed row. Prompts that begin with the same tokens share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from align.engine.layout import Layout, Span, TokenTree, TreeBatch
from align.engine.tokenize import common_prefix

SHARED_TOKENS = 32
"""Fewer common tokens are not shared: what it saves is less than what another level of the tree costs."""
PADDING_RUN = 128
"""Padding stands in runs of this many tokens, each a root of its own."""


def pack(trees: Sequence[TokenTree], score_free: bool = False, row_length: Callable[[int], int] | None = None) -> TreeBatch:
    """Lay trees out in one row.

    Args:
        trees: at least one.
        score_free: also score leaves without an edge (unseen responses, SELM's third response).
        row_length: tokens needed → tokens of the row; what is more is padding, which counts nowhere.

    Returns:
        The batch, on the CPU. Nodes that no edge needs are left out.

    >>> batch = pack([TokenTree([[1, 2], [3], [4, 5]], [-1, 0, 0], [(1, 2)], [1.0], [0.0])])
    >>> batch.input_ids.tolist(), batch.position_ids.tolist(), batch.predictors.tolist()
    ([[1, 2, 3, 4, 5]], [[0, 1, 2, 2, 3]], [1, 1, 3])
    """
    parts = [_Part.of(tree, score_free) for tree in trees]
    row = _Row(parts)
    row.add(_shared_prompts(trees))
    used = len(row.ids)
    row.pad((row_length(used) if row_length else used) - used)
    return _batch(trees, parts, row, used, score_free)


@dataclass(frozen=True)
class _Part:
    """Which nodes of a tree go into the row.

    Attributes:
        order: depth first, the prompt first; nodes that lead to nothing scored are left out.
        scored: nodes with an edge, and free ones.
        free: nodes scored without an edge.
        ends: how many pairs end at each node.
    """

    tree: TokenTree
    order: list[int]
    scored: set[int]
    free: list[int]
    ends: Counter[int]

    @classmethod
    def of(cls, tree: TokenTree, score_free: bool) -> _Part:
        ends = Counter(node for edge in tree.edges for node in edge)
        inner = set(tree.parents)
        free = [n for n in range(1, len(tree.tokens)) if n not in ends and n not in inner] if score_free else []
        scored = {*ends, *free}
        needed = {*scored, 0}
        for node in range(len(tree.tokens) - 1, 0, -1):
            if node in needed:
                needed.add(tree.parents[node])
        children: dict[int, list[int]] = {node: [] for node in needed}
        for node in sorted(needed - {0}):
            children[tree.parents[node]].append(node)
        order, stack = [], [0]
        while stack:
            node = stack.pop()
            order.append(node)
            stack += reversed(children[node])
        return cls(tree, order, scored, free, ends)


@dataclass
class _Prefix:
    """A run of prompt tokens; the trees whose prompts end with it, and the runs that go on from it by their first tokens."""

    run: list[int]
    trees: list[int] = field(default_factory=list)
    longer: dict[tuple[int, ...], _Prefix] = field(default_factory=dict)


def _shared_prompts(trees: Sequence[TokenTree]) -> _Prefix:
    """All prompts as a radix tree, in the order of the trees; its root is empty."""
    root = _Prefix([])
    for number, tree in enumerate(trees):
        prefix, rest = root, list(tree.tokens[0])
        while rest:
            known = prefix.longer.get(tuple(rest[:SHARED_TOKENS]))
            if known is None:
                known = prefix.longer[tuple(rest[:SHARED_TOKENS])] = _Prefix(rest)
            common = common_prefix(known.run, rest)
            if common < len(known.run):
                _split(known, common)
            prefix, rest = known, rest[common:]
        prefix.trees.append(number)
    return root


def _split(prefix: _Prefix, length: int) -> None:
    """Cut a run in two; what came after it comes after its second part."""
    second = _Prefix(prefix.run[length:], prefix.trees, prefix.longer)
    prefix.run, prefix.trees, prefix.longer = prefix.run[:length], [], {tuple(second.run[:SHARED_TOKENS]): second}


@dataclass
class _Scored:
    """The scored tokens of a tree: the row index that predicts each, the token, its node in the tree."""

    predictors: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)

    def add(self, node: int, run: Sequence[int], start: int, before: int | None) -> None:
        """Append a node whose tokens begin at row index `start` and stand after `before`; None: the first one has no predictor."""
        first = [] if before is None else [before]
        self.predictors += [*first, *range(start, start + len(run) - 1)]
        self.labels += run if first else run[1:]
        self.nodes += [node] * (len(run) - 1 + len(first))


class _Row:
    """A row under construction.

    Attributes:
        ids: its tokens.
        starts, lengths, parents, depths: of each span; depth is the position of its first token.
        sequences: of each span, the pairs that end there.
        places: of each tree, its nodes' spans.
        scored: of each tree, its scored tokens.
    """

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts
        self.ids: list[int] = []
        self.starts: list[int] = []
        self.lengths: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.sequences: list[int] = []
        self.places: list[dict[int, int]] = [{} for _ in parts]
        self.scored = [_Scored() for _ in parts]

    def add(self, prefix: _Prefix, parent: int = -1) -> None:
        """Append a run of prompt tokens with everything below it."""
        stack = [(prefix, parent)]
        while stack:
            prefix, parent = stack.pop()
            span = self._span(prefix.run, parent)
            for number in prefix.trees:
                self._tree(number, span)
            stack += [(longer, span) for longer in reversed(prefix.longer.values())]

    def pad(self, tokens: int) -> None:
        """Append padding."""
        for start in range(0, tokens, PADDING_RUN):
            self._span([0] * min(PADDING_RUN, tokens - start), -1)

    def spans(self) -> list[Span]:
        """All spans, each with its subtree's end; the pairs through each are summed up in `sequences` on the way."""
        ends = [start + length for start, length in zip(self.starts, self.lengths, strict=True)]
        subtree_ends = list(ends)
        for number in range(len(ends) - 1, -1, -1):
            if (parent := self.parents[number]) >= 0:
                subtree_ends[parent] = max(subtree_ends[parent], subtree_ends[number])
                self.sequences[parent] += self.sequences[number]
        return [Span(*span) for span in zip(self.starts, ends, subtree_ends, self.parents, self.depths, strict=True)]

    def _span(self, run: Sequence[int], parent: int) -> int:
        """The number of a new span; of no tokens, the parent's."""
        if not len(run):
            return parent
        self.depths.append(self.depths[parent] + self.lengths[parent] if parent >= 0 else 0)
        self.starts.append(len(self.ids))
        self.lengths.append(len(run))
        self.parents.append(parent)
        self.sequences.append(0)
        self.ids += run
        return len(self.starts) - 1

    def _tree(self, number: int, root: int) -> None:
        """Append a tree's nodes below the span that its prompt ends with."""
        part, places = self._parts[number], self.places[number]
        for node in part.order:
            above = places[part.tree.parents[node]] if node else root
            run = part.tree.tokens[node] if node else ()
            span = places[node] = self._span(run, above)
            if span >= 0:
                self.sequences[span] += part.ends[node]
            if node in part.scored and len(run):
                before = self.starts[above] + self.lengths[above] - 1 if above >= 0 else None
                self.scored[number].add(node, run, self.starts[span], before)


def _batch(trees: Sequence[TokenTree], parts: list[_Part], row: _Row, used: int, score_free: bool) -> TreeBatch:
    """The tensors of a finished row. Nodes are numbered tree after tree, in the order of the trees given."""
    spans, length = row.spans(), len(row.ids)
    numbers, slices, total = _node_numbers(parts), [], 0
    for scored in row.scored:
        slices.append((total, total + len(scored.labels)))
        total += len(scored.labels)
    token_node = _ids([n[node] for n, scored in zip(numbers, row.scored, strict=True) for node in scored.nodes])
    node_lengths = torch.bincount(token_node, minlength=sum(map(len, numbers)))
    sides = [_ids([n[edge[side]] for n, tree in zip(numbers, trees, strict=True) for edge in tree.edges]) for side in (0, 1)]
    weights = torch.tensor([w for tree in trees for w in tree.weights], dtype=torch.float32)
    free = _ids([n[node] for n, part in zip(numbers, parts, strict=True) for node in part.free])
    lengths = np.array(row.lengths, dtype=np.int64)
    offsets = np.array(row.depths, dtype=np.int64) - np.array(row.starts, dtype=np.int64)
    positions = torch.from_numpy(np.arange(length) + np.repeat(offsets, lengths))
    ends = torch.from_numpy(np.repeat(np.array([span.subtree_end for span in spans], dtype=np.int64), lengths))
    return TreeBatch(
        input_ids=_ids(row.ids)[None],
        position_ids=positions[None],
        predictors=_ids([index for scored in row.scored for index in scored.predictors]),
        labels=_ids([token for scored in row.scored for token in scored.labels]),
        token_node=token_node,
        node_lengths=node_lengths,
        chosen=sides[0],
        rejected=sides[1],
        weights=weights,
        margins=torch.tensor([m for tree in trees for m in tree.margins], dtype=torch.float32),
        free=free,
        multiplicity=torch.from_numpy(np.repeat(np.array(row.sequences, dtype=np.float32), lengths)),
        counts=torch.stack([weights.sum(), (node_lengths[sides[0]] * weights).sum(), torch.tensor(float(len(free)))]),
        layout=Layout(spans, length, used, int(positions.max()) + 1 if length else 0, positions, ends),
        node_spans=[places[node] for places, part in zip(row.places, parts, strict=True) for node in part.order],
        keys=[tree.content_key(score_free) for tree in trees],
        token_slices=slices,
    )


def _node_numbers(parts: list[_Part]) -> list[dict[int, int]]:
    """Of each tree, the number of each of its nodes among all nodes of the row."""
    numbers, first = [], 0
    for part in parts:
        numbers.append({node: first + place for place, node in enumerate(part.order)})
        first += len(part.order)
    return numbers


def _ids(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
