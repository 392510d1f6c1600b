"""Prompts to sample from: read from prompt sets or preference sets, each once, with an id that stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.errors import AlignError, nearest
from align.trees import ColumnsError, Message, Rejected, read_messages, read_records
from align.trees.forms import asked_of
from align.trees.messages import check_text
from align.trees.other_forms import unfolded
from align.trees.text import Unparsed


@dataclass(frozen=True)
class Prompt:
    """A prompt and the id that its samples, scores and seeds go by."""

    id: str
    prompt: str | list[Message]


def read_prompts(
    source: str, split: str = "train", limit: int | None = None, column: str = "prompt"
) -> tuple[list[Prompt], list[Rejected]]:
    """The distinct prompts of a source, in its order, and the records that hold none, each with the reason.

    Args:
        source: as for `align.trees.read_records`; prompt sets and preference sets alike.
        split: of a hub data set.
        limit: the first so many.
        column: where the prompt stands; for a list of messages, all up to the last user turn are the prompt. A record without the
            column "prompt" is read by its form: a question, an instruction with its input, a conversation.

    Returns:
        Prompts with ids made from their content, so that a prompt keeps its samples when others come or go.

    Raises:
        AlignError: the source does not exist, or no record of it has a prompt in that column.
    """
    found: dict[str, Prompt] = {}
    rejected: list[Rejected] = []
    for where, record in read_records(source, split):
        if limit is not None and len(found) >= limit:
            break
        try:
            prompt = _prompt_of(record, column)
        except AlignError as error:
            rejected.append(Rejected(where, str(error), record))
            continue
        identity = prompt_id(prompt)
        found.setdefault(identity, Prompt(identity, prompt))
    if not found:
        first = f"{rejected[0].where}: {rejected[0].reason}" if rejected else f"{source}: there is no record in it"
        raise AlignError(f"{first} (no record of {source} has a prompt)" if len(rejected) > 1 else first)
    return list(found.values()), rejected


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


def conversation(prompt: str | list[Message], system: str | None = None) -> list[Message]:
    """A prompt as messages: text is a user's; the system message stands first, unless the prompt begins with one of its own.

    Args:
        prompt: text or messages.
        system: the system message; "" is an empty one, None is none.

    >>> conversation("hi", "")
    [{'role': 'system', 'content': ''}, {'role': 'user', 'content': 'hi'}]
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system is None or (messages and messages[0].get("role") in ("system", "developer")):
        return messages
    return [{"role": "system", "content": system}, *messages]


def asked_as(prompt: str | list[Message], chat: bool, system: str | None = None) -> str | list[Message]:
    """A prompt as a model is asked it: text to go on from where `chat` is false, else messages. Messages stay messages."""
    return conversation(prompt, system) if chat or not isinstance(prompt, str) else prompt


def check_system(system: str | None, tokenizer: Any, chat: bool = True, key: str = "rollouts.system") -> None:
    """See that a system message reaches the model.

    Args:
        system: the message, None where there is none to check.
        tokenizer: the model's.
        chat: whether text prompts go through its chat template.
        key: where the user gave it, for errors.

    Raises:
        AlignError: there is no chat template, prompts are plain text, or the template refuses the message or leaves it out.
    """
    if system is None:
        return
    if not getattr(tokenizer, "chat_template", None):
        raise AlignError(f"{key}: the model has no chat template, which a system message needs: leave it out, or give it a template")
    if not chat:
        raise AlignError(f"{key}: prompts are plain text here, which have no system message: leave it out, or set chat")
    try:
        text = tokenizer.apply_chat_template(conversation("?", system), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a template raises
        raise AlignError(f"{key}: the model's chat template takes no system message ({' '.join(str(error).split())})") from error
    if system.strip() not in text:
        raise AlignError(f"{key}: the model's chat template leaves the system message out")


def _prompt_of(record: Any, column: str) -> str | list[Message]:
    if not isinstance(record, Mapping):
        raise AlignError(record.reason if isinstance(record, Unparsed) else "the line is not a record")
    if column == "prompt" and record.get(column) is None:  # other forms have it elsewhere
        return _asked(record)
    value = record.get(column)
    if value is None:
        raise AlignError(f"`{column}` is null" if column in record else f"there is no column '{column}': {nearest(column, record)}")
    prompt = value if isinstance(value, str) else _up_to_last_user(read_messages(value, column))
    if not prompt:
        raise AlignError(f"`{column}` is empty or no prompt: expected text, or messages with a user's turn")
    check_text(prompt, column)
    return prompt


def _asked(record: Mapping[str, Any]) -> str | list[Message]:
    try:
        prompt = asked_of(unfolded(record))
    except ColumnsError as error:
        told = "`prompt` is null" if "prompt" in record else f"there is no column 'prompt': {nearest('prompt', map(str, record))}"
        raise AlignError(f"{told} (rollouts.prompts_column names another)") from error
    check_text(prompt, "prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0] == {"role": "user", "content": prompt[0].get("content")}:
        return str(prompt[0]["content"])
    return prompt


def _up_to_last_user(messages: list[Message]) -> list[Message]:
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    return messages[: users[-1] + 1] if users else []
