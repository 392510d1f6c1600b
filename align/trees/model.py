"""The data type: a tree of responses to one prompt, with preferences as edges between siblings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from align.errors import AlignError

Message = dict[str, Any]
Prompt = str | list[Message]
ROOT = -1


@dataclass(frozen=True)
class Node:
    """A run of tokens given its ancestors.

    Attributes:
        text: what the model wrote here, unchanged; or the messages of a whole turn (conversational responses).
        parent: index of the parent node; `ROOT` (−1) hangs it under the prompt.
        token_ids: the tokens as the sampler produced them; None lets the trainer tokenize the path.
        score: a judge's, checker's or implicit reward, if any.
        complete: the response ends here, so the end-of-sequence token follows. None: it does for every leaf of a tree
            of depth one, and does not in deeper trees.
        metadata: anything that JSON can hold.
    """

    text: str | list[Message]
    parent: int = ROOT
    token_ids: tuple[int, ...] | None = None
    score: float | None = None
    complete: bool | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """A preference: node `chosen` is better than its sibling `rejected`.

    Attributes:
        chosen, rejected: node indices with the same parent.
        weight: how many times the edge counts in the mean over edges; > 0.
        margin: by how much the rewards should differ at least (used by losses that take margins).
    """

    chosen: int
    rejected: int
    weight: float = 1.0
    margin: float = 0.0


@dataclass(frozen=True)
class PreferenceTree:
    """A prompt, the nodes below it (parents before children), and edges between siblings. Valid once constructed.

    Raises:
        AlignError: on construction, for the first broken rule, naming the node or edge.

    >>> tree = PreferenceTree("2+2=", (Node("4"), Node("5")), (Edge(0, 1),))
    >>> tree.depth, tree.path(0)
    (1, [0])
    """

    prompt: Prompt
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()
    prompt_token_ids: tuple[int, ...] | None = None
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        if not self.nodes:
            raise AlignError("`nodes` is empty: a tree needs at least one response")
        for index, node in enumerate(self.nodes):
            _check_node(index, node, len(self.nodes))
        for index, edge in enumerate(self.edges):
            _check_edge(index, edge, self.nodes)

    @property
    def depth(self) -> int:
        """The number of nodes on the longest path below the prompt."""
        return max(len(self.path(index)) for index in range(len(self.nodes)))

    def path(self, index: int) -> list[int]:
        """Node indices from the prompt's child down to `index`, both included."""
        path: list[int] = []
        while index != ROOT:
            path.append(index)
            index = self.nodes[index].parent
        return path[::-1]

    def children(self, index: int) -> list[int]:
        """Indices of the nodes whose parent is `index` (`ROOT` for the prompt)."""
        return [i for i, node in enumerate(self.nodes) if node.parent == index]

    def is_complete(self, index: int) -> bool:
        """Whether the response ends with node `index` (see `Node.complete`)."""
        node = self.nodes[index]
        if node.complete is not None:
            return node.complete
        return all(other.parent == ROOT for other in self.nodes)

    @property
    def conversational(self) -> bool:
        """Whether the prompt is a list of messages, to be rendered by a chat template."""
        return not isinstance(self.prompt, str)


def order_nodes(nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
    """Put parents before children, as `PreferenceTree` wants them, and renumber the edges.

    Raises:
        AlignError: a parent does not exist, or the parents form a cycle.
    """
    for index, node in enumerate(nodes):
        if not ROOT <= node.parent < len(nodes):
            raise AlignError(f"nodes[{index}].parent is {node.parent}, but there are only nodes 0 to {len(nodes) - 1} (−1 is the prompt)")
    place: dict[int, int] = {ROOT: ROOT}
    waiting = list(range(len(nodes)))
    while waiting:
        ready = [i for i in waiting if nodes[i].parent in place]
        if not ready:
            raise AlignError(f"nodes[{waiting[0]}].parent: following the parents from this node leads in a cycle and never to the prompt")
        for i in ready:
            place[i] = len(place) - 1
        waiting = [i for i in waiting if i not in place]
    if all(node.parent < index for index, node in enumerate(nodes)):
        place = {index: index for index in range(ROOT, len(nodes))}  # in order already: nothing moves
    ordered = sorted(range(len(nodes)), key=place.__getitem__)
    renumbered = [replace(nodes[i], parent=place[nodes[i].parent]) for i in ordered]
    for number, edge in enumerate(edges):
        for end in (edge.chosen, edge.rejected):
            if not 0 <= end < len(nodes):
                raise AlignError(f"edges[{number}] names node {end}, but there are only nodes 0 to {len(nodes) - 1}")
    return tuple(renumbered), tuple(replace(e, chosen=place[e.chosen], rejected=place[e.rejected]) for e in edges)


def _check_prompt(prompt: Prompt) -> None:
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list) or not prompt:
        raise AlignError(f"`prompt` is {type(prompt).__name__}: expected text or a non-empty list of messages")
    for index, message in enumerate(prompt):
        if not isinstance(message, dict) or "role" not in message:
            raise AlignError(f"prompt[{index}] is not a message: expected an object with `role` and `content`")


def _check_node(index: int, node: Node, count: int) -> None:
    if not ROOT <= node.parent < index:
        hint = "its own parent" if node.parent == index else f"node {node.parent}, which does not come before it"
        raise AlignError(f"nodes[{index}].parent is {hint if node.parent < count else f'node {node.parent}, which does not exist'}")
    if isinstance(node.text, str) and not node.text and not node.token_ids:
        raise AlignError(f"nodes[{index}].text is empty: a response needs at least one character")
    if not isinstance(node.text, str) and not node.text:
        raise AlignError(f"nodes[{index}].text has no messages: a response needs at least one")
    if node.token_ids is not None and not node.token_ids:
        raise AlignError(f"nodes[{index}].token_ids is empty: leave it out, or give at least one token")
    if node.score is not None and not math.isfinite(node.score):
        raise AlignError(f"nodes[{index}].score is {node.score}: expected a finite number, or none")


def _check_edge(index: int, edge: Edge, nodes: Sequence[Node]) -> None:
    for name in ("chosen", "rejected"):
        end = getattr(edge, name)
        if not 0 <= end < len(nodes):
            raise AlignError(f"edges[{index}].{name} is node {end}, but there are only nodes 0 to {len(nodes) - 1}")
    if edge.chosen == edge.rejected:
        raise AlignError(f"edges[{index}] prefers node {edge.chosen} over itself")
    if nodes[edge.chosen].parent != nodes[edge.rejected].parent:
        raise AlignError(
            f"edges[{index}] joins nodes {edge.chosen} and {edge.rejected}, which are not siblings: "
            f"their parents are {nodes[edge.chosen].parent} and {nodes[edge.rejected].parent}"
        )
    if not (math.isfinite(edge.weight) and edge.weight > 0):
        raise AlignError(f"edges[{index}].weight is {edge.weight}: expected a finite number above 0")
    if not math.isfinite(edge.margin):
        raise AlignError(f"edges[{index}].margin is {edge.margin}: expected a finite number")
