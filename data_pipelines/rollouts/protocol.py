"""The one protocol of rollout engines: requests in, completions out, in whatever order they finish."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from align.errors import AlignError
from align.sampling import Sample, Sampling
from align.trees import Message

__all__ = ["Completion", "Engine", "Request", "Rollout", "Sampling", "check_requests", "completion_of", "seed_of", "session_of"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """A prompt and how many samples of it are wanted.

    Attributes:
        id: names the prompt; results carry it.
        prompt: text, messages (rendered by the model's chat template), or token ids.
        n: samples.
        seed: sample i is drawn with seed + i.
    """

    id: str
    prompt: str | list[Message] | tuple[int, ...]
    n: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    Attributes:
        text: without end token and stop text.
        token_ids: as sampled, end token and stop text included.
        logps: log π of each token at temperature 1 and before any filter, nats; empty for a text that no model sampled.
        finish_reason: "stop" or "length".
        stop_text: the stop text that ended it; None where an end token did, or the length.
    """

    text: str
    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: FinishReason
    stop_text: str | None = None


@dataclass(frozen=True)
class Rollout:
    """The samples of one prompt, with the prompt as the model saw it."""

    id: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


class Engine(Protocol):
    """What samples from a model.

    Attributes:
        context: tokens of prompt and response together that the model takes, None where there is no limit.
        batch: responses that the engine handles at once; None: it schedules any number itself.
        tokenizer: the model's.
    """

    context: int | None
    batch: int | None
    tokenizer: Any

    def prompt_ids(self, prompt: str | list[Message] | tuple[int, ...]) -> tuple[int, ...]:
        """A prompt's token ids."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Sample; yields each prompt's samples once all of them are there, in any order.

        Raises:
            AlignError: the engine died, or refused a request. What was yielded before is good.
        """
        ...

    def close(self) -> None:
        """Give back memory and processes."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """An engine that can keep what it read of prompts from one call to the next."""

    def session(self) -> AbstractContextManager[None]:
        """A context in which it does; what is sampled is the same, up to rounding of the logits."""
        ...


def session_of(engine: Engine) -> AbstractContextManager[None]:
    """A context for calls of `generate` whose prompts begin alike; an engine that always remembers prompts, or never, needs none."""
    return engine.session() if isinstance(engine, Remembers) else contextlib.nullcontext()


def check_requests(requests: Sequence[Request], sampling: Sampling) -> None:
    """See that the requests make sense together, the same for every engine.

    Raises:
        AlignError: several samples of greedy decoding, or an id twice.
    """
    if sampling.temperature == 0.0 and any(request.n > 1 for request in requests):
        raise AlignError("samples above 1 at temperature 0: greedy decoding gives the same response every time; set a temperature")
    if len({request.id for request in requests}) < len(requests):
        raise AlignError("two requests have the same id: results could not be told apart")


def completion_of(sample: Sample, tokenizer: Any, sampling: Sampling, ends: Collection[int] = ()) -> Completion:
    """A sample with its text, decoded the same way for every engine and cut at the first stop text.

    Args:
        sample: as it was drawn.
        tokenizer: the model's.
        sampling: with the stop texts.
        ends: the tokens that end a response; one at the sample's end is no part of its text.
    """
    ids = sample.token_ids
    ended = sample.finish_reason == "stop" and ids and (ids[-1] in ends or ids[-1] in sampling.stop_token_ids)
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    places = {stop: text.find(stop) for stop in sampling.stop if stop in text}
    if not places:
        return Completion(text, sample.token_ids, sample.logps, sample.finish_reason)
    first = min(places, key=lambda stop: (places[stop], sampling.stop.index(stop)))
    return Completion(text[: places[first]], sample.token_ids, sample.logps, sample.finish_reason, first)


def seed_of(*parts: Any) -> int:
    """A seed from what names a prompt's samples: run seed, round, prompt id. Never from the clock or the batch order.

    >>> seed_of(0, 1, "p7") == seed_of(0, 1, "p7") != seed_of(0, 2, "p7")
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 2
