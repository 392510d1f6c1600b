"""Trees as plain records and back: what a JSONL line holds (`to_record`), and what a row of an Arrow table does (`to_row`).

A record is as one would write it by hand: a prompt is text or messages, metadata is any object. Arrow wants one type for a column,
and one set of keys for its objects: it refuses a table that has both, and fills in keys that a record does not have. So in a row
messages and metadata travel as JSON text (`prompt_messages`, and in a node `messages`), and every row has every column.
`from_record` reads both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from align.errors import AlignError, nearest
from align.trees.messages import as_float, check_text, described, read_messages
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


def to_row(tree: PreferenceTree) -> dict[str, Any]:
    """A tree as a row of an Arrow table, with the same columns and types whatever the tree holds (see `row_types`)."""
    record = to_record(tree)
    prompt, nodes = record["prompt"], record["nodes"]
    return {
        **_by_type("prompt", "prompt_messages", prompt),
        "nodes": [
            {
                **_by_type("text", "messages", node["text"]),
                **{key: node.get(key) for key in ("parent", "token_ids", "score", "complete")},
                "metadata": _json(node["metadata"]) if "metadata" in node else None,
            }
            for node in nodes
        ],
        "edges": [{"weight": None, "margin": None} | edge for edge in record["edges"]],
        "prompt_token_ids": record.get("prompt_token_ids"),
        "id": record.get("id"),
        "metadata": _json(record["metadata"]) if "metadata" in record else None,
    }


def row_types() -> dict[str, Any]:
    """The types of a row's columns, as strings, objects and lists of these."""
    node = {
        "text": "string", "messages": "string", "parent": "int64", "token_ids": ["int64"], "score": "float64", "complete": "bool",
        "metadata": "string",
    }  # fmt: skip
    edge = {"chosen": "int64", "rejected": "int64", "weight": "float64", "margin": "float64"}
    return {
        "prompt": "string", "prompt_messages": "string", "nodes": [node], "edges": [edge], "prompt_token_ids": ["int64"], "id": "string",
        "metadata": "string",
    }  # fmt: skip


def from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a row, as `to_record` gives it; a record that is no row stays as it is.

    Raises:
        AlignError: a text that should be JSON is none.
    """
    record = dict(row)
    if (messages := record.pop("prompt_messages", None)) is not None:
        record["prompt"] = _parsed(messages, "prompt_messages")
    record["metadata"] = _parsed(record.get("metadata"), "metadata")
    if isinstance(record.get("nodes"), list):
        record["nodes"] = [_node_of_row(node, f"nodes[{index}]") for index, node in enumerate(record["nodes"])]
    return {key: value for key, value in record.items() if value is not None}


def from_record(record: Mapping[str, Any]) -> PreferenceTree:
    """A record or a row as a tree. Keys that are None count as absent, as Parquet fills them in.

    Raises:
        AlignError: a missing or unknown key, a wrong type, or a broken rule of the tree.

    >>> from_record({"prompt": "a", "nodes": [{"text": "b"}, {"text": "c"}], "edges": [{"chosen": 0, "rejected": 1}]}).edges
    (Edge(chosen=0, rejected=1, weight=1.0, margin=0.0),)
    """
    if not isinstance(record, Mapping):
        raise AlignError(f"the record is {described(record)}: expected an object")
    record = _present(from_row(record), _TREE_KEYS, "")
    for key in ("prompt", "nodes"):
        if key not in record:
            raise AlignError(f"`{key}` is missing: a tree has `prompt`, `nodes` and `edges`")
    nodes = tuple(_node(index, entry) for index, entry in enumerate(_listed(record["nodes"], "nodes")))
    edges = tuple(_edge(index, entry) for index, entry in enumerate(_listed(record.get("edges", []), "edges")))
    nodes, edges = order_nodes(nodes, edges)
    prompt = record["prompt"]
    prompt_ids = _token_ids(record, "prompt_token_ids", "prompt_token_ids")
    if isinstance(prompt, str) and not prompt.strip() and not prompt_ids:
        raise AlignError("`prompt` is empty: it needs at least one character")
    if not isinstance(prompt, str):
        prompt = read_messages(prompt, "prompt")
    check_text(prompt, "prompt")
    return PreferenceTree(
        prompt=prompt,
        nodes=nodes,
        edges=edges,
        prompt_token_ids=prompt_ids,
        id=None if record.get("id") is None else str(record["id"]),
        metadata=_object(record, "metadata", "metadata"),
    )


def is_tree_record(record: Mapping[str, Any]) -> bool:
    """Whether a record is a tree rather than a prompt/chosen/rejected pair."""
    return "nodes" in record and (bool(record["nodes"]) or record.get("chosen") is None)


def _by_type(text: str, messages: str, value: Any) -> dict[str, str | None]:
    return {text: value, messages: None} if isinstance(value, str) else {text: None, messages: _json(value)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise AlignError(f"`{where}` is a text that is not JSON: {error}") from error


def _node_of_row(node: Any, where: str) -> Any:
    if not isinstance(node, Mapping) or ("messages" not in node and not isinstance(node.get("metadata"), str)):
        return node
    node = dict(node)
    if (messages := node.pop("messages", None)) is not None:
        node["text"] = _parsed(messages, f"{where}.messages")
    node["metadata"] = _parsed(node.get("metadata"), f"{where}.metadata")
    return {key: value for key, value in node.items() if value is not None}


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


def _index(entry: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = _number(entry, key, where, default)
    if value != value or value in (float("inf"), float("-inf")) or int(value) != value:
        raise AlignError(f"{where}.{key} is {value!r}: expected the number of a node")
    return int(value)


def _token_ids(entry: Mapping[str, Any], key: str, where: str) -> tuple[int, ...] | None:
    ids = entry.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise AlignError(f"{where} is {ids if not isinstance(ids, list) else 'a list of other things'}: expected a list of token ids")
    return tuple(ids)


def _object(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = entry.get(key, {})
    if not isinstance(value, Mapping):
        raise AlignError(f"{where} is {described(value)}: expected an object")
    return dict(value)


def _node(index: int, entry: Any) -> Node:
    where = f"nodes[{index}]"
    entry = _present(entry, _NODE_KEYS, where)
    text = entry.get("text")
    if text is None or not isinstance(text, (str, list)):
        raise AlignError(f"{where}.text is {'missing' if text is None else described(text)}: expected text or messages")
    if not isinstance(text, str) and text:
        text = read_messages(text, f"{where}.text", role="assistant")
    check_text(text, f"{where}.text")
    complete = entry.get("complete")
    if complete is not None and not isinstance(complete, bool):
        raise AlignError(f"{where}.complete is {complete!r}: expected true or false")
    return Node(
        text=text,
        parent=_index(entry, "parent", where, ROOT),
        token_ids=_token_ids(entry, "token_ids", f"{where}.token_ids"),
        score=_number(entry, "score", where, None),
        complete=complete,
        metadata=_object(entry, "metadata", f"{where}.metadata"),
    )


def _edge(index: int, entry: Any) -> Edge:
    where = f"edges[{index}]"
    entry = _present(entry, _EDGE_KEYS, where)
    for key in ("chosen", "rejected"):
        if key not in entry:
            raise AlignError(f"{where}.{key} is missing: an edge names its chosen and its rejected node")
    return Edge(
        _index(entry, "chosen", where), _index(entry, "rejected", where),
        as_float(_number(entry, "weight", where, 1.0)), as_float(_number(entry, "margin", where, 0.0)),
    )  # fmt: skip
