"""The data types of the tree engine: token trees, the row that they are packed into, and what a step reads of it.

Nodes stand in depth-first order, so that a node's subtree is one interval, and token q may attend to token k iff
k ≤ q < subtree_end[k]. Positions count depth, so a node sees exactly what it would see at the end of its own path.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

_ALIGNMENT = 16  # bytes between tensors that travel together


@dataclass(frozen=True)
class TokenTree:
    """A tree of token runs. Node 0 is the prompt; `parents[0]` is −1 and parents come before children.

    Attributes:
        tokens: token ids of every node; only the prompt's may be empty.
        parents: index of each node's parent.
        edges: (chosen, rejected) node indices.
        weights, margins: one number per edge.
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
    """A run of tokens of the row: its place [start, end), where its subtree ends, its parent's number, its first position.

    A node of a tree is one span, but for a prompt that shares its beginning with others: that is one span per shared part.
    An empty prompt has none.
    """

    start: int
    end: int
    subtree_end: int
    parent: int
    depth: int


@dataclass
class Layout:
    """The row's tree structure.

    Attributes:
        spans: every run of tokens, in depth-first order, padding included; plain numbers, so that no step waits for a device.
        length: tokens in the row, padding included.
        used: tokens in the row, without padding, which stands at the end.
        max_position: the longest root-to-leaf path, in tokens.
        position_ids, subtree_end: `[length]`, on the row's device.
        plans: the index tensors of attention backends, by key. `plan` makes them; they move with the row.
        masks: what a backend makes of them on the device, by key.
    """

    spans: list[Span]
    length: int
    used: int
    max_position: int
    position_ids: Tensor
    subtree_end: Tensor
    plans: dict[Hashable, Any] = field(default_factory=dict)
    masks: dict[Hashable, Any] = field(default_factory=dict)

    def path(self, number: int) -> list[Span]:
        """The spans from the root to span `number`, both included."""
        path = []
        while number >= 0:
            path.append(self.spans[number])
            number = self.spans[number].parent
        return path[::-1]

    def plan(self, key: Hashable, make: Callable[[Layout], Any]) -> Any:
        """The plan of that key: made on the CPU by `make` the first time, then kept, and on the row's device."""
        if key not in self.plans:
            self.plans[key] = moved(make(self), self.position_ids.device)
        return self.plans[key]

    def to(self, device: torch.device | str) -> Layout:
        """The same structure on another device."""
        tensors = {"position_ids": self.position_ids, "subtree_end": self.subtree_end, "plans": self.plans}
        return replace(self, **moved(tensors, device), masks={})


@dataclass
class TreeBatch:
    """Trees packed into one row, with everything that a step reads.

    Shapes: T tokens, S scored tokens, N nodes, E edges, F free nodes (scored, without an edge).

    Attributes:
        input_ids, position_ids: `[1, T]`.
        predictors: `[S]`, the row index whose hidden state predicts each scored token.
        labels: `[S]`, the scored tokens, tree after tree and node after node.
        token_node: `[S]`, the node of each scored token.
        node_lengths: `[N]`, scored tokens of each node.
        chosen, rejected: `[E]`, node numbers.
        weights, margins: `[E]`.
        free: `[F]`, node numbers.
        multiplicity: `[T]`, how many pair sequences run through each token (weighs the router loss of MoE models).
        counts: `[3]`, what this batch adds to the denominators of a step: the edges' weights, the weighted tokens of
            chosen responses, the free nodes.
        layout: the tree structure.
        node_spans: of each node, the number of its span in `layout.spans` (−1: an empty prompt).
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
    counts: Tensor
    layout: Layout
    node_spans: list[int]
    keys: list[bytes]
    token_slices: list[tuple[int, int]]

    @property
    def num_nodes(self) -> int:
        """How many nodes are in the row (N)."""
        return len(self.node_spans)

    @property
    def idle(self) -> bool:
        """Whether nothing in it counts: the batch of a rank that has nothing to do."""
        return len(self.chosen) == 0 == len(self.free)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """The same batch on another device, in one copy; on a GPU the host does not wait for it."""
        here, there = self.input_ids.device, torch.device(device)
        if here.type == there.type and there.index in (None, here.index):
            return self
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        layout = {"position_ids": self.layout.position_ids, "subtree_end": self.layout.subtree_end, "plans": self.layout.plans}
        tensors, layout = moved((tensors, layout), device)
        return replace(self, **tensors, layout=replace(self.layout, **layout, masks={}))

    def pin_memory(self) -> TreeBatch:
        """The batch itself (called by the data loader): `to` pins what it copies."""
        return self


def moved(content: Any, device: torch.device | str) -> Any:
    """Tuples and dictionaries of tensors, with their tensors on `device`; from the CPU to a GPU in one copy for all of them."""
    leaves, structure = tree_flatten(content)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if torch.device(device).type == "cpu":
        return tree_unflatten([leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
    if not tensors:
        return content
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.empty(end, dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")
    for tensor, start, size in zip(tensors, starts, sizes, strict=True):
        buffer[start : start + size] = tensor.contiguous().reshape(-1).view(torch.uint8)
    on_device = buffer.to(device, non_blocking=True)
    parts = iter(
        on_device[start : start + size].view(tensor.dtype).view(tensor.shape)
        for tensor, start, size in zip(tensors, starts, sizes, strict=True)
    )
    return tree_unflatten([next(parts) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
