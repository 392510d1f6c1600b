"""Prompts to sample from: read from prompt sets or preference sets, each once, with an id that stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from align.errors import AlignError, nearest
from align.trees import Message, read_records


@dataclass(frozen=True)
class Prompt:
    """A prompt and the id that its samples, scores and seeds go by."""

    id: str
    prompt: str | list[Message]


def read_prompts(source: str, split: str = "train", limit: int | None = None, column: str = "prompt") -> list[Prompt]:
    """The distinct prompts of a source, in its order.

    Args:
        source, split: as for `align.trees.read_records`; prompt sets and preference sets alike.
        limit: the first so many.
        column: where the prompt stands; for a list of messages, all up to the last user turn are the prompt.

    Returns:
        Prompts with ids made from their content, so that a prompt keeps its samples when others come or go.

    Raises:
        AlignError: the source does not exist, has no such column, or no prompts.
    """
    found: dict[str, Prompt] = {}
    for where, record in read_records(source, split):
        if limit is not None and len(found) >= limit:
            break
        prompt = _prompt_of(record, column, where)
        identity = prompt_id(prompt)
        found.setdefault(identity, Prompt(identity, prompt))
    if not found:
        raise AlignError(f"{source}: there is no prompt in it")
    return list(found.values())


def prompt_id(prompt: str | list[Message]) -> str:
    """The id of a prompt: a hash of its content; a lone user message is the same prompt as its text.

    >>> prompt_id("hi") == prompt_id([{"role": "user", "content": "hi"}])
    True
    """
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].get("role") == "user":
        prompt = prompt[0].get("content") or ""
    return hashlib.blake2b(json.dumps(prompt, ensure_ascii=False).encode(), digest_size=8).hexdigest()


def wants_chat(chat: bool | None, tokenizer: Any) -> bool:
    """Whether text prompts go through the chat template: as told, and told nothing (None), if the tokenizer has one."""
    return bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat


def as_conversation(prompts: list[Prompt]) -> list[Prompt]:
    """Text prompts as a user's message, for chat models."""
    return [Prompt(p.id, [{"role": "user", "content": p.prompt}] if isinstance(p.prompt, str) else p.prompt) for p in prompts]


def _prompt_of(record: Any, column: str, where: str) -> str | list[Message]:
    if not isinstance(record, Mapping):
        raise AlignError(f"{where}: the line is not a record")
    value = record.get(column)
    if value is None:
        raise AlignError(f"{where}: there is no column '{column}': {nearest(column, record)}")
    if isinstance(value, list):
        turns = list(_up_to_last_user(value))
        if turns:
            return turns
    elif isinstance(value, str) and value:
        return value
    raise AlignError(f"{where}: `{column}` is empty or no prompt: expected text, or messages with a user's turn")


def _up_to_last_user(messages: list[Message]) -> Iterator[Message]:
    users = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    yield from messages[: users[-1] + 1] if users else []
