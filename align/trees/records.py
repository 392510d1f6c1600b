"""Trees as plain records (what a JSONL line or a Parquet row holds) and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.errors import AlignError, nearest
from align.trees.model import ROOT, Edge, Node, PreferenceTree, order_nodes

_TREE_KEYS = {"prompt", "nodes", "edges", "prompt_token_ids", "id", "metadata"}
_NODE_KEYS = {"text", "parent", "token_ids", "score", "complete", "metadata"}
_EDGE_KEYS = {"chosen", "rejected", "weight", "margin"}


def to_record(tree: PreferenceTree) -> dict[str, Any]:
    """A tree as a record of JSON types; keys at their default are left out."""
    nodes = []
    for node in tree.nodes:
        entry: dict[str, Any] = {"text": node.text, "parent": node.parent}
        if node.token_ids is not None:
            entry["token_ids"] = list(node.token_ids)
        entry |= {key: value for key in ("score", "complete") if (value := getattr(node, key)) is not None}
        if node.metadata:
            entry["metadata"] = node.metadata
        nodes.append(entry)
    edges = []
    for edge in tree.edges:
        plain: dict[str, Any] = {"chosen": edge.chosen, "rejected": edge.rejected}
        if edge.weight != 1.0:
            plain["weight"] = edge.weight
        if edge.margin != 0.0:
            plain["margin"] = edge.margin
        edges.append(plain)
    record: dict[str, Any] = {"prompt": tree.prompt, "nodes": nodes, "edges": edges}
    if tree.prompt_token_ids is not None:
        record["prompt_token_ids"] = list(tree.prompt_token_ids)
    if tree.id is not None:
        record["id"] = tree.id
    if tree.metadata:
        record["metadata"] = tree.metadata
    return record


def from_record(record: Mapping[str, Any]) -> PreferenceTree:
    """A record as a tree. Keys that are None count as absent, as Parquet fills them in.

    Raises:
        AlignError: a missing or unknown key, a wrong type, or a broken rule of the tree.

    >>> from_record({"prompt": "a", "nodes": [{"text": "b"}, {"text": "c"}], "edges": [{"chosen": 0, "rejected": 1}]}).edges
    (Edge(chosen=0, rejected=1, weight=1.0, margin=0.0),)
    """
    record = _present(record, _TREE_KEYS, "")
    for key in ("prompt", "nodes"):
        if key not in record:
            raise AlignError(f"`{key}` is missing: a tree has `prompt`, `nodes` and `edges`")
    nodes = tuple(_node(index, entry) for index, entry in enumerate(_listed(record["nodes"], "nodes")))
    edges = tuple(_edge(index, entry) for index, entry in enumerate(_listed(record.get("edges", []), "edges")))
    nodes, edges = order_nodes(nodes, edges)
    prompt_ids = record.get("prompt_token_ids")
    return PreferenceTree(
        prompt=record["prompt"],
        nodes=nodes,
        edges=edges,
        prompt_token_ids=None if prompt_ids is None else tuple(prompt_ids),
        id=record.get("id"),
        metadata=record.get("metadata", {}),
    )


def is_tree_record(record: Mapping[str, Any]) -> bool:
    """Whether a record is a tree rather than a prompt/chosen/rejected pair."""
    return "nodes" in record


def _present(entry: Any, known: set[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise AlignError(f"{where or 'the record'} is {type(entry).__name__}: expected an object")
    for key in entry:
        if key not in known:
            raise AlignError(f"{where + '.' if where else ''}{key} is not a key of the format: {nearest(key, known)}")
    return {key: value for key, value in entry.items() if value is not None}


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise AlignError(f"`{where}` is {type(value).__name__}: expected a list")
    return value


def _number(entry: Mapping[str, Any], key: str, where: str, default: Any) -> Any:
    value = entry.get(key, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise AlignError(f"{where}.{key} is {value!r}: expected a number")
    return value


def _node(index: int, entry: Any) -> Node:
    where = f"nodes[{index}]"
    entry = _present(entry, _NODE_KEYS, where)
    text = entry.get("text")
    if text is None or not isinstance(text, (str, list)):
        raise AlignError(f"{where}.text is {'missing' if text is None else type(text).__name__}: expected text or messages")
    ids = entry.get("token_ids")
    return Node(
        text=text,
        parent=int(_number(entry, "parent", where, ROOT)),
        token_ids=None if ids is None else tuple(int(token) for token in ids),
        score=_number(entry, "score", where, None),
        complete=entry.get("complete"),
        metadata=entry.get("metadata", {}),
    )


def _edge(index: int, entry: Any) -> Edge:
    where = f"edges[{index}]"
    entry = _present(entry, _EDGE_KEYS, where)
    for key in ("chosen", "rejected"):
        if key not in entry:
            raise AlignError(f"{where}.{key} is missing: an edge names its chosen and its rejected node")
    return Edge(
        int(_number(entry, "chosen", where, None)),
        int(_number(entry, "rejected", where, None)),
        float(_number(entry, "weight", where, 1.0)),
        float(_number(entry, "margin", where, 0.0)),
    )
