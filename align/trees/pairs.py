"""Converters from and to prompt/chosen/rejected pairs, the format of public preference sets and other trainers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from align.errors import AlignError
from align.trees.columns import renamed
from align.trees.forms import Response, is_missing, split_record
from align.trees.messages import as_float, described
from align.trees.model import ROOT, Edge, Message, Node, PreferenceTree
from align.trees.other_forms import unfolded


def tree_from_pair(pair: Mapping[str, Any], columns: Mapping[str, str | None] | None = None) -> PreferenceTree:
    """One pair as a tree of two leaves and an edge.

    Args:
        pair: a record in any form of `align.trees.forms`. `weight`, `margin`, `score_chosen`, `score_rejected`, `tools`,
            `chat_template_kwargs` and `id` are taken over.
        columns: our names → the record's, where they differ; null for a column that is not to be read.

    Raises:
        AlignError: no pair in its columns, no prompt, an empty response, or the same response twice.

    >>> tree_from_pair({"chosen": "Q: 1+1? A: 2", "rejected": "Q: 1+1? A: 3"}).prompt
    'Q: 1+1? A:'
    >>> tree_from_pair({"question": "1+1?", "chosen": "2", "rejected": "3"}).prompt
    [{'role': 'user', 'content': '1+1?'}]
    """
    pair = unfolded(renamed(pair, columns))
    prompt, chosen, rejected = split_record(pair)
    nodes = (Node(chosen, score=_score(pair.get("score_chosen"))), Node(rejected, score=_score(pair.get("score_rejected"))))
    edge = Edge(0, 1, _number(pair, "weight", 1.0), _number(pair, "margin", 0.0))
    identity = pair.get("id")
    return PreferenceTree(
        prompt, nodes, (edge,), id=None if is_missing(identity) or identity == "" else str(identity), metadata=read_options(pair)
    )


def read_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat template is told besides the messages: `tools` (a list, or its JSON text) and `chat_template_kwargs`.

    Raises:
        AlignError: one of them is no such thing.
    """
    options: dict[str, Any] = {}
    for name, expected in (("tools", list), ("chat_template_kwargs", Mapping)):
        value = record.get(name)
        if is_missing(value) or value in ("", "null"):
            continue
        try:
            read = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            raise AlignError(f"`{name}` is a text that is not JSON: {error}") from error
        if not isinstance(read, expected):
            raise AlignError(f"`{name}` is {described(read)}: expected {'a list of schemas' if name == 'tools' else 'an object'}")
        options[name] = read
    return options


def _score(value: Any) -> float | None:
    """A score, where it is one: it says something about a pair, and is no reason to leave the pair out."""
    value = _as_number(value)
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(as_float(value))
    return as_float(value) if usable else None


def _number(pair: Mapping[str, Any], key: str, default: float) -> float:
    value = _as_number(pair.get(key))
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AlignError(f"`{key}` is {value!r}: expected a number")
    return as_float(value)


def _as_number(value: Any) -> Any:
    """A number that stands as text, as in CSV, as a number; anything else as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value.strip()
    return value


def trees_from_pairs(pairs: Iterable[Mapping[str, Any]]) -> list[PreferenceTree]:
    """Pairs with the same prompt as one tree: a response that stands in several pairs becomes one node.

    Order follows the first time a prompt is seen. An edge that occurs n times gets weight n.

    >>> rows = [dict(prompt="p", chosen="a", rejected="b"), dict(prompt="p", chosen="a", rejected="c")]
    >>> [len(tree.nodes) for tree in trees_from_pairs(rows)]
    [3]
    """
    return merge_prompts(map(tree_from_pair, pairs))


def merge_prompts(trees: Iterable[PreferenceTree]) -> list[PreferenceTree]:
    """Trees with the same prompt as one. Deeper trees, and those that bring their token ids, stay as they are."""
    groups: dict[str, list[PreferenceTree]] = {}
    for number, tree in enumerate(trees):
        groups.setdefault(prompt_key(tree, number), []).append(tree)
    return [unite(group) for group in groups.values()]


def prompt_key(tree: PreferenceTree, number: int) -> str:
    """What trees have in common that are merged into one; `number`, a tree's own, tells those apart that stay as they are."""
    plain = tree.depth == 1 and tree.prompt_token_ids is None and all(node.token_ids is None for node in tree.nodes)
    return json.dumps([tree.prompt, tree.metadata], sort_keys=True) if plain else f"tree {number}"


def unite(group: Sequence[PreferenceTree]) -> PreferenceTree:
    """Trees of depth one that have the same prompt as one tree; a tree alone as it is."""
    if len(group) == 1:
        return group[0]
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
    """Every edge of a tree as a prompt/chosen/rejected record for any trainer.

    Below a text prompt, the path above the two siblings joins the prompt. In a conversational tree it joins both responses, as the
    beginning of the assistant's message: a prompt that ends with an assistant's turn would be closed by other trainers. Its log-probs
    cancel in the difference of the two. Where nodes end in the middle of a response, other trainers end it there:
    `align.engine.export.rendered_pairs` keeps it open.

    >>> tree = PreferenceTree("p ", (Node("x "), Node("a", 0), Node("b", 0)), (Edge(1, 2),))
    >>> next(pairs_from_tree(tree))["prompt"]
    'p x '
    """
    for edge in tree.edges:
        chosen, rejected = tree.nodes[edge.chosen], tree.nodes[edge.rejected]
        record: dict[str, Any] = {"prompt": tree.prompt, "chosen": chosen.text, "rejected": rejected.text}
        above = tree.path(chosen.parent)
        if tree.conversational:
            before = path_text(tree, above)
            record |= {name: _continued(before, node.text) for name, node in (("chosen", chosen), ("rejected", rejected))}
        elif above:
            record["prompt"] = f"{tree.prompt}{path_text(tree, above)}"
        for key, node in (("score_chosen", chosen), ("score_rejected", rejected)):
            if node.score is not None:
                record[key] = node.score
        if edge.margin:
            record["margin"] = edge.margin
        if edge.weight != 1.0:
            record["weight"] = edge.weight
        yield record | _template_options(tree)


def _continued(before: str, text: Response) -> list[Message]:
    """A response as messages, after the text that it goes on from."""
    turns = as_messages(text)
    return [{**turns[0], "content": f"{before}{turns[0]['content']}"}, *turns[1:]] if before else turns


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
    """The tree cut down to what training reads: nodes in an edge and those above them; of the metadata, what chat templates read."""
    used = sorted({node for edge in tree.edges for end in (edge.chosen, edge.rejected) for node in tree.path(end)})
    place = {old: new for new, old in enumerate(used)} | {ROOT: ROOT}
    nodes = tuple(replace(tree.nodes[i], parent=place[tree.nodes[i].parent], metadata={}) for i in used)
    edges = tuple(replace(edge, chosen=place[edge.chosen], rejected=place[edge.rejected]) for edge in tree.edges)
    return replace(tree, nodes=nodes, edges=edges, metadata=_template_options(tree))


def _template_options(tree: PreferenceTree) -> dict[str, Any]:
    return {name: tree.metadata[name] for name in ("tools", "chat_template_kwargs") if tree.metadata.get(name) is not None}
