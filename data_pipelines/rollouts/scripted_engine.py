"""An engine for rehearsals: it samples for real, and puts written responses in the place of most of what it sampled.

A small random model writes noise that never ends, passes no test and states no answer, and later stages would get nothing to work on.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from align.trees import Message
from data_pipelines.rollouts.protocol import Completion, Engine, Request, Rollout, Sampling, session_of

JUDGEMENT = re.compile(r"/(judge|vote)/")
VERDICT = re.compile(r"/steps/\d+$")
COMPLETION = re.compile(r"/answer/\d+$")
VERDICTS = ("It follows.\nVerdict: right", "It does not follow.\nVerdict: wrong")


@dataclass(frozen=True)
class Script:
    """What is written.

    Attributes:
        responses: to a prompt, by the id of its request.
        thoughts: to a question, by its id: for every step the thoughts that may come next.
        markers: texts that end a thought; the first is put behind those of `thoughts`.
        judgements: of thoughts, whatever they are.
    """

    responses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    thoughts: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    markers: Sequence[str] = ("\n",)
    judgements: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Leave it where a stage's process reads it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def read(path: str | Path) -> Script:
        """What `write` left."""
        return Script(**json.loads(Path(path).read_text(encoding="utf-8")))


class ScriptedEngine:
    """Another engine, with written responses in the place of all its samples of a prompt but the first."""

    def __init__(self, engine: Engine, script: Script) -> None:
        """Args: the engine that samples; what is written."""
        self._engine, self._script = engine, script
        self.context, self.batch, self.tokenizer = engine.context, engine.batch, engine.tokenizer
        self._asked: dict[str, int] = {}  # tokens of a question, known from its first request

    def prompt_ids(self, prompt: str | list[Message] | tuple[int, ...]) -> tuple[int, ...]:
        """A prompt's token ids."""
        return self._engine.prompt_ids(prompt)

    def session(self) -> AbstractContextManager[None]:
        """As the other engine's."""
        return session_of(self._engine)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Sample; the first sample of a prompt stays as it is."""
        for rollout in self._engine.generate(requests, sampling):
            written, start = self._written(rollout), zlib.crc32(rollout.id.encode())
            others = rollout.completions[1:]
            if written:
                others = tuple(written[(start + number) % len(written)] for number in range(len(others)))
            yield replace(rollout, completions=(*rollout.completions[:1], *others))

    def close(self) -> None:
        """Close the engine that samples."""
        self._engine.close()

    def _written(self, rollout: Rollout) -> list[Completion]:
        """What is written for a request; empty where there is nothing."""
        if JUDGEMENT.search(rollout.id):
            return [self._response(text) for text in self._script.judgements]
        if VERDICT.search(rollout.id):
            return [self._response(text) for text in VERDICTS]
        if (completed := COMPLETION.search(rollout.id)) and (steps := self._script.thoughts.get(rollout.id[: completed.start()])):
            return [self._response(text) for text in steps[-1]]
        question, _, node = rollout.id.rpartition("/")
        if node and question in self._script.thoughts:
            return [self._thought(text) for text in self._next_thoughts(question, rollout.prompt_token_ids)]
        return [self._response(text) for text in self._script.responses.get(rollout.id, ())]

    def _next_thoughts(self, question: str, prompt: tuple[int, ...]) -> list[str]:
        """The thoughts of the step that a path has come to: it has as many behind it as it has markers. Of a thought that was begun
        for the model, the rest."""
        steps = self._script.thoughts[question]
        path = self.tokenizer.decode(prompt[self._asked.setdefault(question, len(prompt)) :], skip_special_tokens=True)
        *taken, begun = re.split("|".join(map(re.escape, sorted(self._script.markers, key=len, reverse=True))), path)
        return [text.removeprefix(begun.strip()) for text in steps[min(len(taken), len(steps) - 1)]]

    def _response(self, text: str) -> Completion:
        """A whole response, the end token included."""
        ids = self._ids(text)
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        return Completion(self.tokenizer.decode(ids, skip_special_tokens=True), (*ids, *end), (), "stop")

    def _thought(self, text: str) -> Completion:
        """A thought that its marker ended."""
        marker = self._script.markers[0]
        return Completion(text, tuple(self._ids(text + marker)), (), "stop", marker)

    def _ids(self, text: str) -> list[Any]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
