"""Conversations with a model, or with two side by side, to see what training changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.errors import AlignError
from align.export import trained_model
from align.sampling import Sampling
from align.trees import Message
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.prompts import check_system, conversation, wants_chat
from data_pipelines.rollouts.protocol import Engine, Request, seed_of


@dataclass
class Talk:
    """A conversation with one model.

    Attributes:
        name: of the model, as the user gave it.
        engine: that samples from it.
        system: the system message, None where there is none.
        messages: what was said so far. A model without a chat template goes on from plain text, and remembers nothing.
    """

    name: str
    engine: Engine
    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template, and so remembers what was said."""
        return wants_chat(None, self.engine.tokenizer)


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        model: its name.
        text: of the answer.
        tokens: that it took.
        is_cut: it is cut off at the longest length that was asked for.
    """

    model: str
    text: str
    tokens: int
    is_cut: bool


@contextlib.contextmanager
def talks(models: Sequence[str], system: str | None, dtype: str = "auto") -> Iterator[list[Talk]]:
    """Conversations with models, as a context that gives their memory back.

    Args:
        models: folders of runs (their last model), folders of models, or names on the hub.
        system: the system message, None for none.
        dtype: of the weights.

    Raises:
        AlignError: a model cannot be loaded, or takes no system message.
    """
    with contextlib.ExitStack() as open_engines:
        found = []
        for name in models:
            trained = trained_model(Path(name)) if Path(name).is_dir() else None
            options = {"trust_remote_code": True} if trained is not None and trained.trust_remote_code else {}
            settings = EngineSettings(dtype=dtype, options=options)
            engine = open_engines.enter_context(open_engine(settings, str(trained.folder) if trained is not None else name))
            talk = Talk(name, engine, system)
            check_system(system, engine.tokenizer, talk.is_chat, "--system")
            found.append(talk)
        yield found


def answers(several: Sequence[Talk], prompt: str, sampling: Sampling, seed: int = 0) -> list[Answer]:
    """Have every model answer a prompt, each in its own conversation, with random numbers of the same seed.

    Args:
        several: the conversations; each gets the prompt and the answer added.
        prompt: what the user says.
        sampling: how the answers are drawn.
        seed: of the drawing.

    Raises:
        AlignError: a conversation is longer than its model takes; nothing is added to any then.
    """
    asked = [[*talk.messages, {"role": "user", "content": prompt}] for talk in several]
    said = [_answer(talk, messages, sampling, seed) for talk, messages in zip(several, asked, strict=True)]
    for talk, messages, answer in zip(several, asked, said, strict=True):
        if talk.is_chat:
            talk.messages = [*messages, {"role": "assistant", "content": answer.text}]
    return said


def _answer(talk: Talk, messages: list[Message], sampling: Sampling, seed: int) -> Answer:
    asked = conversation(messages, talk.system) if talk.is_chat else messages[-1]["content"]
    ids, context = talk.engine.prompt_ids(asked), talk.engine.context
    if context is not None and len(ids) >= context:
        raise AlignError(f"{talk.name}: the conversation has {len(ids)} tokens, and the model takes {context}: begin a new one")
    request = Request("prompt", ids, seed=seed_of(seed, len(messages)))
    completion = next(iter(talk.engine.generate([request], sampling))).completions[0]
    return Answer(talk.name, completion.text, len(completion.token_ids), completion.finish_reason == "length")
