"""Converters from and to prompt/chosen/rejected pairs, the format of public preference sets and other trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from align.errors import AlignError
from align.trees.model import ROOT, Edge, Message, Node, PreferenceTree, Prompt

Response = str | list[Message]


def tree_from_pair(pair: Mapping[str, Any]) -> PreferenceTree:
    """One pair as a tree of two leaves and an edge.

    Standard (text), conversational (messages) and implicit-prompt pairs (no `prompt`: the common prefix of both
    responses) are told apart by their shape. `weight`, `margin`, `score_chosen` and `score_rejected` are taken over.

    Raises:
        AlignError: a missing column, an empty response, or the same response twice.

    >>> tree_from_pair({"chosen": "Q: 1+1? A: 2", "rejected": "Q: 1+1? A: 3"}).prompt
    'Q: 1+1? A:'
    """
    for key in ("chosen", "rejected"):
        if pair.get(key) is None:
            raise AlignError(f"`{key}` is missing: a pair has `chosen`, `rejected` and, unless it begins both, `prompt`")
    prompt, chosen, rejected = _split_prompt(pair)
    for key, response in (("chosen", chosen), ("rejected", rejected)):
        if not response:
            raise AlignError(f"`{key}` is empty: a response needs at least one character")
    if chosen == rejected:
        raise AlignError("`chosen` and `rejected` are the same response")
    nodes = (Node(chosen, score=pair.get("score_chosen")), Node(rejected, score=pair.get("score_rejected")))
    edge = Edge(0, 1, float(pair.get("weight") or 1.0), float(pair.get("margin") or 0.0))
    metadata = {key: pair[key] for key in ("tools", "chat_template_kwargs") if pair.get(key) is not None}
    return PreferenceTree(prompt, nodes, (edge,), id=pair.get("id"), metadata=metadata)


def _split_prompt(pair: Mapping[str, Any]) -> tuple[Prompt, Response, Response]:
    chosen, rejected = pair["chosen"], pair["rejected"]
    if type(chosen) is not type(rejected):
        raise AlignError(
            f"`chosen` is {type(chosen).__name__} and `rejected` is {type(rejected).__name__}: expected both text or both messages"
        )
    if pair.get("prompt") is not None:
        prompt = pair["prompt"]
        if isinstance(prompt, str) and not isinstance(chosen, str):  # UltraFeedback: text prompt, full conversations
            return _split_common(chosen, rejected)
        return prompt, chosen, rejected
    return _split_common(chosen, rejected)


def _split_common(chosen: Response, rejected: Response) -> tuple[Prompt, Response, Response]:
    """Cut the common beginning off two responses: at a message, or before the blank of a text."""
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if isinstance(chosen, str) and common and chosen[common - 1] == " ":
        common -= 1  # the blank belongs to the response's first token
    return chosen[:common], chosen[common:], rejected[common:]


def trees_from_pairs(pairs: Iterable[Mapping[str, Any]]) -> list[PreferenceTree]:
    """Pairs with the same prompt as one tree: a response that stands in several pairs becomes one node.

    Order follows the first time a prompt is seen. An edge that occurs n times gets weight n.

    >>> rows = [dict(prompt="p", chosen="a", rejected="b"), dict(prompt="p", chosen="a", rejected="c")]
    >>> [len(tree.nodes) for tree in trees_from_pairs(rows)]
    [3]
    """
    groups: dict[str, list[PreferenceTree]] = {}
    for pair in pairs:
        tree = tree_from_pair(pair)
        groups.setdefault(json.dumps([tree.prompt, tree.metadata], sort_keys=True), []).append(tree)
    return [_merge(group) for group in groups.values()]


def _merge(group: list[PreferenceTree]) -> PreferenceTree:
    """Unite trees of depth one that have the same prompt."""
    places: dict[str, int] = {}
    nodes: list[Node] = []
    edges: dict[tuple[int, int, float], float] = {}
    for tree in group:
        local = []
        for node in tree.nodes:
            key = json.dumps(node.text, sort_keys=True)
            if key not in places:
                places[key] = len(nodes)
                nodes.append(node)
            local.append(places[key])
        for edge in tree.edges:
            ends = (local[edge.chosen], local[edge.rejected], edge.margin)
            edges[ends] = edges.get(ends, 0.0) + edge.weight
    first = group[0]
    merged = tuple(Edge(c, r, weight, margin) for (c, r, margin), weight in edges.items())
    return PreferenceTree(first.prompt, tuple(nodes), merged, id=first.id, metadata=first.metadata)


def pairs_from_tree(tree: PreferenceTree) -> Iterator[dict[str, Any]]:
    """Every edge of a tree as a prompt/chosen/rejected record: the path above the two siblings joins the prompt.

    In a conversational tree the path is an unfinished assistant message at the prompt's end, which the receiving
    trainer must continue (`continue_final_message`).

    >>> tree = PreferenceTree("p ", (Node("x "), Node("a", 0), Node("b", 0)), (Edge(1, 2),))
    >>> next(pairs_from_tree(tree))["prompt"]
    'p x '
    """
    for edge in tree.edges:
        above = tree.path(tree.nodes[edge.chosen].parent) if tree.nodes[edge.chosen].parent != ROOT else []
        chosen, rejected = tree.nodes[edge.chosen], tree.nodes[edge.rejected]
        record: dict[str, Any] = {"prompt": _prompt_with_path(tree, above), "chosen": chosen.text, "rejected": rejected.text}
        if tree.conversational and not above:
            record["chosen"], record["rejected"] = as_messages(chosen.text), as_messages(rejected.text)
        for key, node in (("score_chosen", chosen), ("score_rejected", rejected)):
            if node.score is not None:
                record[key] = node.score
        if edge.margin:
            record["margin"] = edge.margin
        if edge.weight != 1.0:
            record["weight"] = edge.weight
        yield record | tree.metadata


def _prompt_with_path(tree: PreferenceTree, above: list[int]) -> Prompt:
    if not above:
        return tree.prompt
    text = path_text(tree, above)
    if isinstance(tree.prompt, str):
        return tree.prompt + text
    return [*tree.prompt, {"role": "assistant", "content": text}]


def path_text(tree: PreferenceTree, path: list[int]) -> str:
    """The text of the nodes of a path, joined.

    Raises:
        AlignError: a node on the path holds messages; only the whole response of a tree of depth one may.
    """
    parts = []
    for index in path:
        text = tree.nodes[index].text
        if not isinstance(text, str):
            raise AlignError(f"nodes[{index}].text is a list of messages inside a deeper tree: expected text")
        parts.append(text)
    return "".join(parts)


def as_messages(text: Response) -> list[Message]:
    """A response as messages: a text becomes one assistant message."""
    return [{"role": "assistant", "content": text}] if isinstance(text, str) else text


def only_trained(tree: PreferenceTree) -> PreferenceTree:
    """The tree cut down to what training reads: nodes in an edge and those above them, without metadata."""
    used = sorted({node for edge in tree.edges for end in (edge.chosen, edge.rejected) for node in tree.path(end)})
    place = {old: new for new, old in enumerate(used)} | {ROOT: ROOT}
    nodes = tuple(replace(tree.nodes[i], parent=place[tree.nodes[i].parent], metadata={}) for i in used)
    edges = tuple(replace(edge, chosen=place[edge.chosen], rejected=place[edge.rejected]) for edge in tree.edges)
    return replace(tree, nodes=nodes, edges=edges, metadata={})
