"""A response's length, as the rules of a round count it."""

from __future__ import annotations

from align.trees import Node, as_messages


def characters(node: Node) -> int:
    """Characters of a response without the white space around it, as DICE's released code counts them: it strips what is sampled.

    >>> characters(Node("  Yes.\\n\\n"))
    4
    """
    return sum(len(str(message.get("content") or "").strip()) for message in as_messages(node.text))


def length(node: Node, unit: str) -> int:
    """The length |y| of a sampled response, in "characters" (see above) or "tokens"."""
    return characters(node) if unit == "characters" else len(node.token_ids or ())
