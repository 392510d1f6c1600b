"""Who judges two answers: any OpenAI-compatible endpoint, or a model of one's own."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from align.engine.tokenize import prompt_token_ids
from align.errors import AlignError
from data_pipelines.rollouts.concurrency import concurrently

TEMPLATE = """Two assistants were given the same instruction. Decide which of their answers a careful person would rather have: right, \
complete, to the point, and doing what was asked.

The instruction:
{instruction}

Answer A:
{first}

Answer B:
{second}

Which answer is better? Reply with the letter A or B and nothing else."""
PLACES = ("{instruction}", "{first}", "{second}")
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Pair:
    """Two outputs to one instruction."""

    index: int
    instruction: str
    baseline: str
    output: str
    names: tuple[str, str]


@dataclass(frozen=True)
class Ask:
    """One question to a judge; `swapped`: the model's output stands first."""

    pair: Pair
    swapped: bool

    @property
    def id(self) -> str:
        """Its name in the journal."""
        return f"{self.pair.index}{'-swapped' if self.swapped else ''}"


@dataclass(frozen=True)
class Verdict:
    """How surely the answer that stands second is better, 0 to 1; None where the judge said neither. `reply`: what it said."""

    ask: Ask
    second: float | None
    reply: str


class Judge(Protocol):
    """What compares two answers."""

    name: str

    def judge(self, asks: Sequence[Ask], template: str) -> Iterator[Verdict]:
        """Verdicts, in whatever order they come."""
        ...


class EndpointJudge:
    """A model behind `/v1/chat/completions`: its preference is in the log-probs of A and B, where it gives them, else in its reply."""

    def __init__(
        self, url: str, name: str, *, key: str = "", attempts: int = 8, connections: int = 16, timeout: float = 120.0,
        pause: float = 1.0,
    ) -> None:  # fmt: skip
        """Args: url, with or without /v1; name of the model; key of the API; attempts a question, with growing pauses (seconds, the first
        is `pause`; what Retry-After says counts more); connections at a time; timeout of a request, seconds.
        """
        self.name, self._attempts, self._connections, self._timeout, self._pause = name, attempts, connections, timeout, pause
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        self._logprobs = True  # until it says that it has none
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def judge(self, asks: Sequence[Ask], template: str) -> Iterator[Verdict]:
        """Ask for all.

        Raises:
            AlignError: the endpoint refuses, or no longer answers. Verdicts that came before are good.
        """

        async def one(client: httpx.AsyncClient, ask: Ask) -> Verdict:
            messages = [{"role": "user", "content": filled(template, ask)}]
            body: dict[str, Any] = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": 4}
            if self._logprobs:
                body |= {"logprobs": True, "top_logprobs": 20}
            return self._read(ask, await self._post(client, body))

        yield from concurrently(asks, one, connections=self._connections, timeout=self._timeout, headers=self._headers)

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        said = ""
        for attempt in range(self._attempts):
            wait = min(LONGEST_PAUSE, self._pause * 2**attempt) * (0.5 + random.random() / 2)
            try:
                answer = await client.post(self._url, json=body)
            except httpx.TransportError as error:
                said = type(error).__name__
            else:
                if answer.status_code == 200:
                    return answer
                said = f"{answer.status_code}: {' '.join(answer.text.split())[:200]}"
                if answer.status_code == 400 and body.pop("logprobs", None):  # an endpoint without log-probs
                    body.pop("top_logprobs")
                    self._logprobs = False
                    continue
                if answer.status_code not in RETRIED:
                    raise AlignError(f"{self._url} refused ({said}); verdicts so far are kept")
                wait = max(wait, _seconds(answer.headers.get("retry-after")))
            if attempt < self._attempts - 1:
                await asyncio.sleep(wait)
        raise AlignError(
            f"{self._url} gave no answer in {self._attempts} attempts ({said}); verdicts so far are kept: the same command goes on"
        )

    def _read(self, ask: Ask, answer: httpx.Response) -> Verdict:
        try:
            choice = answer.json()["choices"][0]
            reply = str(choice["message"]["content"] or "")
            tokens = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
            chances = {letter: sum(math.exp(t["logprob"]) for t in tokens if t["token"].strip() == letter) for letter in "AB"}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise AlignError(f"{self._url}: the answer lacks what /v1/chat/completions has ({type(error).__name__}: {error})") from error
        if sum(chances.values()) > 0.5:
            return Verdict(ask, chances["B"] / sum(chances.values()), reply)
        letters = [word for word in reply.replace(".", " ").replace(":", " ").split() if word in ("A", "B")]
        return Verdict(ask, float(letters[0] == "B") if len(set(letters)) == 1 else None, reply)


class LocalJudge:
    """A model of one's own: P(B) against P(A) as its next token, one forward a question, nothing sampled."""

    def __init__(self, model: str, dtype: str = "auto") -> None:
        """Args: model, folder or name on the hub; dtype of its weights."""
        import torch

        from align.models import load_model, load_tokenizer
        from align.rewards.implicit import ResponseScorer

        self.name = model
        self._tokenizer = load_tokenizer(model, key="--judge")
        loaded = load_model(model, dtype=dtype, key="--judge").to("cuda" if torch.cuda.is_available() else "cpu")
        self._scorer = ResponseScorer(loaded)
        self._letters = [self._tokenizer.encode(letter, add_special_tokens=False) for letter in "AB"]

    def judge(self, asks: Sequence[Ask], template: str) -> Iterator[Verdict]:
        """Score both letters after every question; they share its forward."""
        for ask in asks:
            text = filled(template, ask)
            prompt = [{"role": "user", "content": text}] if self._tokenizer.chat_template else f"{text}\nAnswer: "
            ids = prompt_token_ids(prompt, self._tokenizer)
            a, b = (float(logps.sum()) for logps in self._scorer.logps([ids], [self._letters])[0])
            second = 1 / (1 + math.exp(a - b)) if a - b < 500 else 0.0
            yield Verdict(ask, second, "A" if a > b else "B")


def filled(template: str, ask: Ask) -> str:
    """The question to the judge. Outputs are put in as they are: braces in them mean nothing."""
    first, second = (ask.pair.output, ask.pair.baseline) if ask.swapped else (ask.pair.baseline, ask.pair.output)
    parts = {"{instruction}": ask.pair.instruction, "{first}": first, "{second}": second}
    found, rest = "", template
    while rest:
        place, name = min(((rest.find(name), name) for name in PLACES if name in rest), default=(len(rest), ""))
        found, rest = found + rest[:place] + parts.get(name, ""), rest[place + len(name) :]
    return found


def check_template(template: str, where: str) -> None:
    """See that a template has a place for all that the judge must see.

    Raises:
        AlignError: it lacks one.
    """
    for name in PLACES:
        if name not in template:
            raise AlignError(f"{where}: there is no place for {name}: a judge's template has {', '.join(PLACES)}")


def _seconds(header: str | None) -> float:
    """What Retry-After asks for; a date, or nonsense, asks for nothing."""
    try:
        return min(LONGEST_PAUSE, float(header or 0))
    except ValueError:
        return 0.0
