"""The forms in which the questions of a task are put to a model, and in which its answers are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from align.errors import AlignError, nearest
from align.trees import Message
from data_pipelines.rollouts.prompts import conversation, wants_chat
from data_pipelines.thought_trees.tasks import Question, ThoughtTask


@dataclass(frozen=True)
class Form:
    """How a task's questions are put to a model, and how its answers are read.

    Attributes:
        prompt: of a question, with a system message or without.
        read: (text of a response, how it ended) → the answer that it states, None where none can be read.
        max_new_tokens: longest response.
        stop: texts that end it.
        chat: whether prompts are conversations.
    """

    prompt: Callable[[Question, str | None], str | list[Message]]
    read: Callable[[str, Literal["stop", "length"]], str | None]
    max_new_tokens: int
    stop: tuple[str, ...]
    chat: bool


def examples(how: ThoughtTask) -> Form:
    """Worked examples, then the question, as text to go on from; a blank line or the next question ends the response."""
    return Form(
        lambda question, system: how.prompt(question), lambda text, ended: how.stated_answer(text),
        how.steps * how.max_new_tokens, tuple(how.end), chat=False,
    )  # fmt: skip


def chat(how: ThoughtTask) -> Form:
    """The question alone as a user's message; the model answers in its own way and ends its turn itself."""
    return Form(
        lambda question, system: conversation(how.chat_prompt(question), system),
        how.chat_answer, how.chat.max_new_tokens, (), chat=True,
    )  # fmt: skip


def examples_in_chat(how: ThoughtTask) -> Form:
    """Worked examples and the question as a user's message, as searches with `chat` ask; answers in their form or a chat model's own."""
    return Form(
        lambda question, system: conversation(how.prompt(question), system),
        lambda text, ended: how.stated_answer(text) or how.chat_answer(text, ended),
        how.chat.max_new_tokens, (), chat=True,
    )  # fmt: skip


FORMS: dict[str, Callable[[ThoughtTask], Form]] = {"examples": examples, "chat": chat, "examples_in_chat": examples_in_chat}


def form_of(name: str | None, how: ThoughtTask, tokenizer: Any) -> tuple[str, Form]:
    """A form and its name; None: `chat` for a model with a chat template, `examples` for one without.

    Raises:
        AlignError: there is no such form, or it needs a chat template and there is none.
    """
    name = name or ("chat" if wants_chat(None, tokenizer) else "examples")
    if name not in FORMS:
        raise AlignError(f"form is '{name}': {nearest(name, FORMS)}")
    form = FORMS[name](how)
    if form.chat and not wants_chat(None, tokenizer):
        raise AlignError("the model has no chat template: ask it in plain text (chat: false, --no-chat), or give it a template")
    return name, form
