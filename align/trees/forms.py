"""The forms in which preference sets are found → prompt, chosen and rejected. The one reader of trainer, recipes and tools.

| the record has | the prompt is |
| --- | --- |
| `prompt` text, both answers text | the text itself, untemplated (trl's standard form) |
| `prompt` text, an answer of messages or an object | a user's message |
| `prompt` text beside `system` or `history` | a user's message, after the system's and the turns of the history |
| `prompt` messages | these messages, without one of the two answers at their end; answers that begin with them lose them |
| `question` or `query`, or `instruction` with `input`, with or without `system` (or `system_prompt`) and `history` | the user's message (instruction and input with an empty line between), after the system's and the turns of the history |
| `conversations`, `conversation` or `messages` | these messages, without an answer at their end that is one of the two |
| two whole conversations | the turns that both begin with, after the system's. A prompt or conversation beside them must agree with them (UltraFeedback) |
| one whole conversation and one answer | the conversation without its last turn |
| two texts that begin with "Human:" (HH-RLHF), alone or beside a prompt that stands in them | both up to the last "Assistant:" that they share |
| two texts alone, with no column for a prompt, not even an empty one | what both begin with (trl's implicit prompt) |

`chosen` and `rejected` (or `chosen_response` and `rejected_response`) are texts, messages, or one message as an object; messages
have role and content, or from and value. A prompt or an answer without any text, numbers, two equal answers, and records with
images, sound or video cannot be used.
Any other column names are given by a mapping (`data.columns` in a recipe, `columns` in `PreferenceConfig`).
"""  # noqa: E501 (a table)

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from align.errors import AlignError, nearest
from align.trees.columns import ANSWERS, MEDIA, QUESTIONS, SYSTEMS, TARGETS, TURNS, ColumnsError
from align.trees.messages import are_messages, check_text, described, is_empty, read_messages, text_of
from align.trees.model import Message, Prompt
from align.trees.other_forms import why_no_pair

Response = str | list[Message]
_NO_PROMPT = re.compile(  # names of columns that say something about a pair and are not its prompt
    r"(^|[_-])(id|idx|index|hash|source|origin|model|generator|annotator|score|scores|rating|ratings|rank|label|labels|category|domain|type|"
    r"dataset|subset|split|lang|language|tag|tags|topic|name|url|license|date|time|timestamp|version|reason|rationale|feedback|critique|"
    r"margin|weight|meta|metadata|info|tokens|length|count|winner|tie|judge|difficulty|quality|level|tools|kwargs|chosen|rejected|"
    r"response|answer|completion)s?([_-]|$)",
    re.IGNORECASE,
)


def split_record(record: Mapping[str, Any]) -> tuple[Prompt, Response, Response]:
    """Prompt, chosen and rejected of a record, by the table above; a response of one plain assistant message is its text.

    Raises:
        ColumnsError: the columns hold no pair, or no prompt.
        AlignError: why the record cannot be used.
    """
    chosen, rejected = _answers(record)
    _check_no_media(record)
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _split_texts(record, chosen, rejected)
    else:
        prompt, chosen, rejected = _split_turns(record, _turns(chosen), _turns(rejected))
    chosen, rejected = _plain(chosen), _plain(rejected)
    check_text(prompt, "prompt")
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        check_text(response, name)
        if not response.strip() if isinstance(response, str) else all(map(is_empty, response)):
            raise AlignError(f"`{name}` is empty: a response needs at least one character")
    if chosen == rejected:
        raise AlignError("`chosen` and `rejected` are the same response")
    return prompt, chosen, rejected


def asked_of(record: Mapping[str, Any]) -> Prompt:
    """What a record asks, with or without answers: the prompt that the table above names, without an assistant's turns at its end.

    Raises:
        ColumnsError: no column of the table holds one.
        AlignError: why the record cannot be used.
    """
    asked = _asked(record)
    if asked is None:
        names = ", ".join(("prompt", *QUESTIONS, *TURNS))
        raise ColumnsError(f"there is no prompt in the columns {', '.join(map(str, list(record)[:30]))}: expected one of {names}")
    system = _system(record)
    if isinstance(asked, str) and not system:
        return asked
    turns = _with_system(system, _as_turns(asked))
    while turns and _is_answer(turns[-1]):
        turns = turns[:-1]
    if not turns:
        raise AlignError("the conversation has no user's turn")
    return turns


def is_missing(value: Any) -> bool:
    """Whether a column has nothing in this record: null, or the not-a-number that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


# Answers


def _answers(record: Mapping[str, Any]) -> tuple[Response, Response]:
    pairs = [pair for pair in ANSWERS if all(name in record for name in pair)]
    if not pairs:
        raise _no_pair(record)
    names = next((pair for pair in pairs if not all(is_missing(record[name]) for name in pair)), pairs[0])
    return _answer(record[names[0]], names[0]), _answer(record[names[1]], names[1])


def _no_pair(record: Mapping[str, Any]) -> ColumnsError:
    missing = next(name for name in ANSWERS[0] if name not in record)
    hint = nearest(missing, map(str, record)) if record else "it has none at all."
    present = f" The columns are {', '.join(map(str, list(record)[:30]))};" if hint.startswith("did you") else ""
    return ColumnsError(
        f"no column '{missing}': {hint}{present} {why_no_pair(record)}A pair whose columns have other names is read with "
        "`data.columns: {prompt: …, chosen: …, rejected: …}`, a tree has `prompt`, `nodes` and `edges`"
    )


def _answer(value: Any, name: str) -> Response:
    if isinstance(value, str):
        return value
    if is_missing(value):
        raise AlignError(f"`{name}` is null: expected a response, text or messages")
    return read_messages(value, name, role="assistant")


def _check_no_media(record: Mapping[str, Any]) -> None:
    for name in MEDIA:
        if not _is_blank(record.get(name)):
            raise AlignError(f"the record has `{name}`: the model is trained on text alone")


def _turns(response: Response) -> list[Message]:
    return [{"role": "assistant", "content": response}] if isinstance(response, str) else response


def _plain(response: Response) -> Response:
    """One assistant message of nothing but text as that text: the same tokens, and the same form whatever set it comes from."""
    if isinstance(response, list) and len(response) == 1 and response[0].keys() == {"role", "content"} and _is_answer(response[0]):
        return str(response[0]["content"])
    return response


def _is_answer(turn: Message) -> bool:
    return bool(turn["role"] == "assistant")


# Prompts


def _asked(record: Mapping[str, Any]) -> Prompt | None:
    """What the columns say is asked, without the system's message; None where no column does."""
    prompt = record.get("prompt")
    if isinstance(prompt, str) and not _is_blank(prompt):
        history = _history(record)
        return [*history, _user(prompt)] if history else prompt
    for name in ("prompt", *QUESTIONS):
        if not _is_blank(record.get(name)):
            return _question(record, name)
    column = next((column for column in TURNS if are_messages(record.get(column))), None)
    return None if column is None else _with_text(read_messages(record[column], column))


def _system(record: Mapping[str, Any]) -> str | None:
    """The system's text; "" where the column is there and empty, None where there is no such column."""
    names = [name for name in SYSTEMS if name in record]
    return next((_text(record, name) for name in names if not _is_blank(record[name])), "" if names else None)


def _with_system(system: str | None, turns: list[Message]) -> list[Message]:
    return turns if not system or turns[0]["role"] == "system" else [{"role": "system", "content": system}, *turns]


def _with_text(turns: list[Message]) -> list[Message]:
    if all(map(is_empty, turns)):
        raise AlignError("`prompt` is empty: there is no text in its messages")
    return turns


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _question(record: Mapping[str, Any], name: str) -> list[Message]:
    """The messages in a column, or the user's message of a question, or of an instruction with its input, after the turns of a history."""
    if isinstance(record[name], (list, tuple, Mapping)):
        return _with_text(read_messages(record[name], name))
    text = _text(record, name)
    if name == "instruction" and not _is_blank(record.get("input")):
        text += "\n\n" + _text(record, "input")
    return [*_history(record), _user(text)]


def _is_blank(value: Any) -> bool:
    return is_missing(value) or (isinstance(value, (str, list, Mapping)) and not (value.strip() if isinstance(value, str) else value))


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise AlignError(f"`{name}` is {described(record[name])}: expected text")
    return str(record[name])


def _history(record: Mapping[str, Any]) -> list[Message]:
    """Earlier turns: pairs of question and answer, or messages."""
    history = record.get("history")
    if _is_blank(history):
        return []
    if not isinstance(history, list):
        raise AlignError(f"`history` is {described(history)}: expected a list of question and answer")
    if isinstance(history[0], Mapping):
        return read_messages(history, "history")
    turns: list[Message] = []
    for number, exchange in enumerate(history):
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(text, str) for text in exchange)):
            raise AlignError(f"`history[{number}]` is {described(exchange)}: expected a question and its answer")
        turns += [_user(exchange[0]), {"role": "assistant", "content": exchange[1]}]
    return turns


def _without_answer(record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
    """The turns as the prompt of two answers: an answer at their end that is chosen or rejected is none of it."""
    if not _is_answer(turns[-1]):
        return turns
    if any(_turns(answer)[-1] == turns[-1] for answer in _answers(record)) and len(turns) > 1:
        return turns[:-1]
    if not _is_blank(record.get("prompt")):
        return turns
    raise AlignError("the conversation ends with an assistant's turn, which is neither `chosen` nor `rejected`: expected a user's")


# Texts

_HUMAN, _ASSISTANT = re.compile(r"\s*(Human|User):"), re.compile(r"\n\n?Assistant:")


def _split_texts(record: Mapping[str, Any], chosen: str, rejected: str) -> tuple[Prompt, Response, Response]:
    asked, system = _asked(record), _system(record)
    length = _transcript(asked, chosen, rejected)
    if length is not None:
        if system:
            raise AlignError("a system message stands beside two transcripts, which have no place for it")
        return chosen[:length], chosen[length:], rejected[length:]
    if asked is not None:
        if isinstance(asked, str) and system is None:
            return asked, chosen, rejected
        return _with_system(system, _without_answer(record, _as_turns(asked))), chosen, rejected
    _check_implicit(record, system)
    common = _common(chosen, rejected)
    if common == min(
        len(chosen), len(rejected)
    ):  # one response begins with the other: at a blank, so that both have something of their own
        common = max(chosen.rfind(" ", 0, common), chosen.rfind("\n", 0, common), 0)
    elif common and chosen[common - 1] == " ":
        common -= 1  # the blank belongs to the response's first token
    if not chosen[:common].strip():
        raise AlignError(
            "`prompt` is missing, and `chosen` and `rejected` do not begin with the same text: "
            "name the prompt's column with `data.columns: {prompt: …}`"
        )
    return chosen[:common], chosen[common:], rejected[common:]


def _transcript(asked: Prompt | None, chosen: str, rejected: str) -> int | None:
    """Where the answers of two whole transcripts begin; None where they are something else."""
    if not (_HUMAN.match(chosen) and _HUMAN.match(rejected)) or not (asked is None or isinstance(asked, str)):
        return None
    if asked and _HUMAN.match(asked) and chosen.startswith(asked) and rejected.startswith(asked):
        return len(asked)
    shared = chosen[: _common(chosen, rejected)]
    ends = [match.end() for match in _ASSISTANT.finditer(shared)]
    if asked and not (ends and asked.strip() in shared[: ends[-1]]):
        return None
    if not ends:
        raise AlignError("`prompt` is missing, and the two transcripts do not begin with the same question")
    return ends[-1]


def _check_implicit(record: Mapping[str, Any], system: str | None) -> None:
    """See that two texts have no column for their prompt, so that what both begin with is one."""
    for name in ("prompt", *QUESTIONS, *TURNS):
        if name in record:
            value = record[name]
            missing = "null" if is_missing(value) else "empty" if _is_blank(value) else described(value)
            raise AlignError(f"`{name}` is {missing}: expected a prompt, text or messages")
    if system:
        raise AlignError("a system message stands beside two texts without a prompt")
    _check_no_prompt_elsewhere(record)


def _common(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """How many leading entries two sequences share."""
    length = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        length += 1
    return length


def _check_no_prompt_elsewhere(record: Mapping[str, Any]) -> None:
    """Two texts are read with an implicit prompt only where no other column may hold it."""
    candidates = [
        str(name) for name, value in record.items()
        if _may_be_prompt(value) and name not in TARGETS and not _NO_PROMPT.search(str(name))
    ]  # fmt: skip
    if candidates:
        names = " or ".join(f"'{name}'" for name in candidates[:5])
        raise ColumnsError(
            f"`prompt` is missing; {names} may hold it: name it with `data.columns: {{prompt: {candidates[0]}}}`, or say "
            "`{prompt: null}` if the two responses begin with it"
        )


def _may_be_prompt(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], (str, Mapping))))


# Turns


def _split_turns(record: Mapping[str, Any], chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, Response, Response]:
    asked = _asked(record)
    said = _as_turns(asked)
    shared = chosen[: _common(chosen, rejected)]  # the question may stand behind an assistant's greeting
    asks = any(turn["role"] == "user" and turn in (said[-1:] or shared) for turn in shared)
    whole = [asks or not _is_answer(turns[0]) for turns in (chosen, rejected)]
    if not any(whole):
        if asked is None:
            _check_no_prompt_elsewhere(record)
            raise AlignError("`prompt` is missing, and both responses are answers only: expected `prompt`, or whole conversations")
        prompt = _without_answer(record, said)
    else:
        if all(whole):
            opening, chosen, rejected = _split_common(chosen, rejected)
        else:
            conversation = chosen if whole[0] else rejected
            if not _is_answer(conversation[-1]) or len(conversation) < 2:
                raise AlignError(f"`{'chosen' if whole[0] else 'rejected'}` does not end with an assistant's turn")
            opening = conversation[:-1]
            chosen, rejected = (conversation[-1:], rejected) if whole[0] else (chosen, conversation[-1:])
        prompt = _opening(said, opening)
    return _with_system(_system(record), prompt), chosen, rejected


def _as_turns(asked: Prompt | None) -> list[Message]:
    return [_user(asked)] if isinstance(asked, str) else asked or []


def _split_common(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """The turns that two conversations begin with, and the rest of each, which begins with an assistant's turn."""
    common = _common(chosen, rejected)
    while common and not all(len(turns) > common and _is_answer(turns[common]) for turns in (chosen, rejected)):
        common -= 1
    opening = chosen[:common]
    if all(turn["role"] in ("system", "assistant") for turn in opening):
        raise AlignError("`chosen` and `rejected` do not begin with the same question: there is no prompt that both answer")
    return opening, chosen[common:], rejected[common:]


def _opening(turns: list[Message], opening: list[Message]) -> list[Message]:
    """The turns that the conversations begin with, checked against what the columns say is asked, if they do, and completed by it."""
    system = [turn for turn in turns if turn["role"] == "system"]
    said = [turn for turn in turns if turn["role"] != "system"]
    body = [turn for turn in opening if turn["role"] != "system"]
    rest = said[len(body) :]  # the answer of the conversation in another column
    begins = said[: len(body)] == body[: len(said)] and all(map(_is_answer, rest))
    if begins or (len(said) == 1 and _stands_in(text_of(said[0]), body)):
        return opening if opening[0]["role"] == "system" else [*system, *opening]
    if len(opening) == len(body) and (said[-len(body) :] == body or _is_answer(said[-1])):  # they begin, or go on, where the prompt ends
        return turns if said[-len(body) :] == body else [*turns, *opening]
    raise AlignError("`prompt` is not what the conversations in `chosen` and `rejected` begin with: name another column for it, or null")


def _stands_in(text: str, turns: Iterable[Message]) -> bool:
    """Whether a text is in one of the turns, or one of the user's turns in it: prompts stand beside conversations stripped or templated."""
    text = text.strip()
    return any(text in text_of(turn) or (turn["role"] == "user" and text_of(turn) and text_of(turn) in text) for turn in turns)
