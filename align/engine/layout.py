"""Token trees → one packed row.

Nodes stand in depth-first order, so that a node's subtree is one interval, and token q may attend to token k iff
k ≤ q < subtree_end[k]. Positions count depth, so a node sees exactly what it would see at the end of its own path.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTree:
    """A tree of token runs. Node 0 is the prompt; `parents[0]` is −1 and parents come before children.

    Attributes:
        tokens: token ids of every node; only the prompt's may be empty.
        parents: index of each node's parent.
        edges: (chosen, rejected) node indices.
        weights, margins: one number an edge.
    """

    tokens: Sequence[Sequence[int]]
    parents: Sequence[int]
    edges: Sequence[tuple[int, int]]
    weights: Sequence[float]
    margins: Sequence[float]

    def content_key(self, score_free: bool = False) -> bytes:
        """A hash of all that the reference's token log-probs depend on: tokens, arrangement, which nodes are scored."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(array("q", [score_free, *self.parents, *sorted({node for edge in self.edges for node in edge})]).tobytes())
        for run in self.tokens:
            digest.update(array("q", [len(run), *run]).tobytes())
        return digest.digest()


@dataclass(frozen=True)
class Span:
    """Where a node lies in the row: tokens [start, end), its subtree [start, subtree_end), its parent's span number."""

    start: int
    end: int
    subtree_end: int
    parent: int
    depth: int  # position of its first token


@dataclass
class Layout:
    """The row's tree structure, as the attention backends need it: plain numbers, so that no step waits for a device.

    Attributes:
        spans: every node, in depth-first order.
        length: tokens in the row.
        max_position: the longest root-to-leaf path, in tokens.
        position_ids, subtree_end: `[length]`, on the row's device.
        softcap: whether backends apply a model's attention soft-capping.
        masks: what a backend builds once a row (dense masks, block masks), by key.
    """

    spans: list[Span]
    length: int
    max_position: int
    position_ids: Tensor
    subtree_end: Tensor
    softcap: bool = True
    masks: dict[object, object] = field(default_factory=dict)

    def path(self, number: int) -> list[Span]:
        """The spans from the root to span `number`, both included."""
        path = []
        while number >= 0:
            path.append(self.spans[number])
            number = self.spans[number].parent
        return path[::-1]


@dataclass
class TreeBatch:
    """Trees packed into one row, with everything that a step reads.

    Shapes: T tokens, S scored tokens, N nodes, E edges, F free nodes (scored, without an edge).

    Attributes:
        input_ids, position_ids: `[1, T]`.
        predictors: `[S]`, the row index whose hidden state predicts each scored token.
        labels: `[S]`, the scored tokens.
        token_node: `[S]`, the node of each scored token.
        node_lengths: `[N]`, scored tokens of each node.
        chosen, rejected: `[E]`, node numbers.
        weights, margins: `[E]`.
        free: `[F]`, node numbers.
        multiplicity: `[T]`, how many pair sequences run through each token (weighs the router loss of MoE models).
        layout: the tree structure.
        keys: content key of each tree; spans of its scored tokens in `token_slices`.
    """

    input_ids: Tensor
    position_ids: Tensor
    predictors: Tensor
    labels: Tensor
    token_node: Tensor
    node_lengths: Tensor
    chosen: Tensor
    rejected: Tensor
    weights: Tensor
    margins: Tensor
    free: Tensor
    multiplicity: Tensor
    layout: Layout
    keys: list[bytes]
    token_slices: list[tuple[int, int]]

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.layout.spans)

    @property
    def idle(self) -> bool:
        """Whether nothing in it counts: the batch of a rank that has nothing to do."""
        return len(self.chosen) == 0 == len(self.free)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v for k, v in moved.items()}
        layout = replace(
            self.layout,
            position_ids=self.layout.position_ids.to(device, non_blocking=non_blocking),
            subtree_end=self.layout.subtree_end.to(device, non_blocking=non_blocking),
            masks={},
        )
        return TreeBatch(**{**moved, "layout": layout})

    def pin_memory(self) -> TreeBatch:
        """The same batch in pinned memory (called by the data loader)."""
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), Tensor):
                setattr(self, f.name, value.pin_memory())
        return self


class _Row:
    """A row under construction."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.multiplicity: list[int] = []
        self.spans: list[Span] = []
        self.predictors: list[int] = []
        self.labels: list[int] = []
        self.token_node: list[int] = []
        self.chosen: list[int] = []
        self.rejected: list[int] = []
        self.free: list[int] = []

    def add(self, tree: TokenTree, score_free: bool) -> tuple[int, int]:
        """Append a tree; returns the slice of its scored tokens."""
        in_edge = {node for edge in tree.edges for node in edge}
        free = {n for n in range(1, len(tree.tokens)) if n not in in_edge and n not in set(tree.parents)} if score_free else set()
        visits = _visits(tree, in_edge | free)
        place: dict[int, int] = {}
        first = len(self.labels)
        for node in visits.order:
            place[node] = self._add_node(tree, node, place, visits)
            if node in in_edge or node in free:
                self._score(tree, node, place)
        for node in visits.order:  # a subtree ends where its last node ends
            number = place[node]
            span = self.spans[number]
            last = max(place[n] for n in visits.subtrees[node])
            self.spans[number] = replace(span, subtree_end=self.spans[last].end)
        self.chosen += [place[c] for c, _ in tree.edges]
        self.rejected += [place[r] for _, r in tree.edges]
        self.free += [place[n] for n in sorted(free)]
        return first, len(self.labels)

    def _add_node(self, tree: TokenTree, node: int, place: dict[int, int], visits: _Visits) -> int:
        parent = tree.parents[node]
        above = self.spans[place[parent]] if parent >= 0 else None
        depth = above.depth + (above.end - above.start) if above else 0
        start, run = len(self.ids), tree.tokens[node]
        self.ids += run
        self.positions += range(depth, depth + len(run))
        self.multiplicity += [visits.sequences[node]] * len(run)
        self.spans.append(Span(start, start + len(run), start + len(run), place[parent] if above else -1, depth))
        return len(self.spans) - 1

    def _score(self, tree: TokenTree, node: int, place: dict[int, int]) -> None:
        span = self.spans[place[node]]
        before = self._last_token_above(span)
        offset = 0 if before is not None else 1  # the first token of an empty prompt's response has no predictor
        positions = range(span.start + offset, span.end)
        self.predictors += [before if p == span.start else p - 1 for p in positions]  # type: ignore[misc]
        self.labels += tree.tokens[node][offset:]
        self.token_node += [place[node]] * len(positions)

    def _last_token_above(self, span: Span) -> int | None:
        while span.parent >= 0:
            span = self.spans[span.parent]
            if span.end > span.start:
                return span.end - 1
        return None


@dataclass(frozen=True)
class _Visits:
    order: list[int]  # depth first, nodes that lead to nothing scored left out
    subtrees: dict[int, list[int]]
    sequences: dict[int, int]  # pair sequences through each node


def _visits(tree: TokenTree, scored: set[int]) -> _Visits:
    needed = set(scored) | {0}
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
    ends = [node for edge in tree.edges for node in edge]
    subtrees: dict[int, list[int]] = {}
    sequences: dict[int, int] = {}
    for node in sorted(needed, reverse=True):
        subtrees[node] = [node] + [n for child in children[node] for n in subtrees[child]]
        sequences[node] = ends.count(node) + sum(sequences[child] for child in children[node])
    return _Visits(order, subtrees, sequences)


def pack(trees: Sequence[TokenTree], score_free: bool = False) -> TreeBatch:
    """Lay trees out in one row.

    Args:
        trees: at least one.
        score_free: also score leaves without an edge (unseen responses, SELM's third response).

    Returns:
        The batch, on the CPU. Nodes that no edge needs are left out.

    >>> batch = pack([TokenTree([[1, 2], [3], [4, 5]], [-1, 0, 0], [(1, 2)], [1.0], [0.0])])
    >>> batch.input_ids.tolist(), batch.position_ids.tolist(), batch.predictors.tolist()
    ([[1, 2, 3, 4, 5]], [[0, 1, 2, 2, 3]], [1, 1, 3])
    """
    row = _Row()
    slices = [row.add(tree, score_free) for tree in trees]
    length = len(row.ids)
    ends = torch.empty(length, dtype=torch.long)
    for span in row.spans:
        ends[span.start : span.end] = span.subtree_end
    positions = torch.tensor(row.positions, dtype=torch.long)
    token_node = torch.tensor(row.token_node, dtype=torch.long)
    return TreeBatch(
        input_ids=torch.tensor([row.ids]),
        position_ids=positions[None],
        predictors=torch.tensor(row.predictors, dtype=torch.long),
        labels=torch.tensor(row.labels, dtype=torch.long),
        token_node=token_node,
        node_lengths=torch.bincount(token_node, minlength=len(row.spans)),
        chosen=torch.tensor(row.chosen, dtype=torch.long),
        rejected=torch.tensor(row.rejected, dtype=torch.long),
        weights=torch.tensor([w for tree in trees for w in tree.weights], dtype=torch.float32),
        margins=torch.tensor([m for tree in trees for m in tree.margins], dtype=torch.float32),
        free=torch.tensor(row.free, dtype=torch.long),
        multiplicity=torch.tensor(row.multiplicity, dtype=torch.float32),
        layout=Layout(row.spans, length, int(positions.max()) + 1 if length else 0, positions, ends),
        keys=[tree.content_key(score_free) for tree in trees],
        token_slices=slices,
    )
