"""Chat messages as data sets write them → messages with `role` and `content`, or one reason why they cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.errors import AlignError
from align.trees.model import Message

_COMMON = frozenset({"user", "assistant", "system"})
ROLES = {
    **{role: role for role in (*_COMMON, "tool")}, "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "ai": "assistant", "model": "assistant", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Names, in small letters, that data sets have for the roles of chat templates (ShareGPT's and OpenAssistant's among them)."""
_SAYS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")  # beside the content
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value", "text")


def read_messages(turns: Any, where: str, role: str | None = None) -> list[Message]:
    """Messages with `role` and `content` (text), and whatever else a message has that is no null and no empty list.

    Args:
        turns: a list of messages, or one. A message has `role` or `from`, and `content`, `value` or `text`: a text, or a list of
            text parts, which are joined. Beside tool calls the content may be missing; it becomes the empty text.
        where: names the field in errors.
        role: of a message that names none.

    Raises:
        AlignError: no message at all, no role, or a content that is no text.

    >>> read_messages([{"from": "human", "value": "Hi"}], "prompt")
    [{'role': 'user', 'content': 'Hi'}]
    """
    if isinstance(turns, Mapping):
        return [_message(turns, where, role)]
    if not isinstance(turns, (list, tuple)):
        raise AlignError(f"`{where}` is {described(turns)}: expected text or messages")
    if not turns:
        raise AlignError(f"`{where}` is empty: expected at least one message")
    return [_message(turn, f"{where}[{number}]", role) for number, turn in enumerate(turns)]


def are_messages(turns: Any) -> bool:
    """Whether a value is a list that begins with a message."""
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and any(key in turns[0] for key in _ROLE_KEYS)


def described(value: Any) -> str:
    """What a value is, for a sentence: `null`, or its type.

    >>> described(None), described(4)
    ('null', 'int')
    """
    return "null" if value is None else type(value).__name__


def as_float(number: float) -> float:
    """A number as a float; an integer that is too large for one is infinite."""
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def check_text(content: str | Sequence[Message], where: str) -> None:
    """See that a text, or every message's, can be written as UTF-8.

    Raises:
        AlignError: it holds half a surrogate pair, as a text has that was cut within an emoji's JSON escape.
    """
    for text in (content,) if isinstance(content, str) else (message["content"] for message in content):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if 0xDC80 <= ord(text[error.start]) <= 0xDCFF:  # how a byte that is no UTF-8 is read
                raise AlignError(
                    f"`{where}` holds a byte that is no UTF-8, or half a character, at place {error.start}: save the file as UTF-8"
                ) from error
            raise AlignError(f"`{where}` holds half a character (a lone surrogate) at place {error.start}") from error


def text_of(message: Message) -> str:
    """The content of a message, without blanks around it."""
    return str(message.get("content") or "").strip()


def is_empty(message: Message) -> bool:
    """Whether a message says nothing and calls nothing."""
    return not text_of(message) and not any(message.get(key) for key in _SAYS)


def from_arrow(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an Arrow table with the keys of its own record: nested keys whose value is null are dropped.

    Arrow gives all objects of a column the same keys, null where a record has them not (in tool schemas, arguments of calls,
    messages). It cannot tell a null that was written from a key that was absent, so both go; nulls in lists stay, and columns do.
    What must keep its nulls travels as JSON text, as `tools` may.

    >>> from_arrow({"tools": [{"city": "Rome", "x": None}], "prompt": None})
    {'tools': [{'city': 'Rome'}], 'prompt': None}
    """
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list) and value and not isinstance(value[0], (int, float, str)):
        return [_without_nulls(entry) for entry in value]
    return value


def _message(turn: Any, where: str, default_role: str | None) -> Message:
    if not isinstance(turn, Mapping):
        raise AlignError(f"`{where}` is {described(turn)}: expected a message, an object with `role` and `content`")
    if len(turn) == 2 and type(turn.get("role")) is str and turn["role"] in _COMMON and type(turn.get("content")) is str:
        return turn if type(turn) is dict else dict(turn)  # as almost all are
    role = next((turn[key] for key in _ROLE_KEYS if turn.get(key) is not None), default_role)
    if not isinstance(role, str) or not role:
        raise AlignError(f"`{where}` is a message without a role: expected an object with `role` and `content`")
    content = next((turn[key] for key in _CONTENT_KEYS if turn.get(key) is not None), None)
    further = {k: v for k, v in turn.items() if v is not None and v != [] and k not in (*_ROLE_KEYS, *_CONTENT_KEYS)}
    if content is None and further.get("tool_calls"):
        content = ""
    return {"role": ROLES.get(role.lower(), role), "content": _text(content, where), **further}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise AlignError(f"`{where}.content` is null: expected text")
    if isinstance(content, Sequence):
        return "".join(_part(part, f"{where}.content[{number}]") for number, part in enumerate(content))
    raise AlignError(f"`{where}.content` is {described(content)}: expected text, or a list of text parts")


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    shown = f"a part of type '{part['type']}'" if isinstance(part, Mapping) and part.get("type") else described(part)
    raise AlignError(f"`{where}` is {shown}: expected a text part, {{type: text, text: …}}")
