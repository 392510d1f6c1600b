"""A language model as the scorer of responses: the policy itself (self-rewarding, arXiv 2401.10020), another model, or a server."""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from align.errors import AlignError, nearest
from align.rewards.scorers import Score, ScorerSettings
from align.runs import StageSettings
from align.trees import Node, PreferenceTree
from data_pipelines.rollouts.engines import ENGINES, EngineSettings, open_engine
from data_pipelines.rollouts.prompts import asked_as, wants_chat
from data_pipelines.rollouts.protocol import Request, Sampling, seed_of

TEMPLATE = """You grade a response to an instruction. Start at 0 and add one point for each of these that holds:
1. It is about what was asked.
2. It answers a good part of it, though perhaps not all.
3. It answers all that matters, so that the person is helped.
4. It is correct, well organised and written for the person who asked, with nothing beside the point.
5. An expert would not change it.

The instruction:
{instruction}

The response:
{response}

Give your reasons in a few sentences, then end with one line: "Score: " and the number of points, 0 to 5."""
PLACES = ("{instruction}", "{response}")
_NUMBER = r"(-?\d+(?:\.\d+)?)(?!\d|,\d)"
_BESIDE = rf"(?:\s+is\b)?[^\w\n-]{{0,6}}{_NUMBER}"
_BELOW = rf"[^\w\n-]{{0,6}}\n[^\w-]{{0,6}}{_NUMBER}(?=[ *_]*(?:/ *\d+)?[ *_.]*$)"  # alone on its line
_SCORE = re.compile(rf"\bscore\b *(?:\([^)]*\))?(?:{_BESIDE}|{_BELOW})", re.IGNORECASE | re.MULTILINE)
_SCORE_OF = re.compile(rf"\bscore\s+of[^\w\n-]{{0,6}}{_NUMBER}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LLMOptions(StageSettings):
    """Options of the scorer `llm`.

    Attributes:
        model: who grades; None: the policy of the round.
        engine: what decodes: transformers, vllm or server.
        url: of a running server.
        votes: grades per response, whose mean is its reward.
        temperature: of the grades.
        max_new_tokens: longest grade with its reasons.
        highest: grades above, and below 0, are not counted.
        template: a text file in the place of `TEMPLATE`, with the same places.
        batch: grades at a time (transformers).
        seed: of the grades, with the run's seed and the round.
        tensor_parallel: GPUs a copy of the model is spread over (vLLM); left out, `resources.tensor_parallel`.
        engine_options: passed on to the engine; left out, `rollouts.options` where those are of the same engine.
    """

    model: str | None = None
    engine: str = "transformers"
    url: str | None = None
    votes: int = 3
    temperature: float = 0.7
    max_new_tokens: int = 512
    highest: float = 5.0
    template: str | None = None
    batch: int = 64
    seed: int = 0
    tensor_parallel: int = 1
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> LLMOptions:
        """Options as a recipe gives them.

        Raises:
            AlignError: one of them is none, or the template's file cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise AlignError(f"rounds.scorers: llm: there is no options.{name}: {nearest(name, known)}")
        read = cls.of(options)
        template_of(read.template)
        ENGINES.check(read.engine)
        return read


class LLMScorer:
    """A language model's grades from 0 to 5, the mean of several: the policy's own (self-rewarding, arXiv 2401.10020), another model's,
    or a server's. A response none of whose grades can be read, or that does not fit the context, has no reward."""

    def __init__(self, settings: ScorerSettings) -> None:
        """
        Args:
            settings: with `LLMOptions` as options.

        Raises:
            AlignError: an option is none, the template lacks a place, or the engine does not start.
        """
        self._options = LLMOptions.checked(settings.options)
        self._template = template_of(self._options.template)
        how = self._options
        engine = EngineSettings(how.engine, settings.dtype, how.batch, how.tensor_parallel, how.url, options=how.engine_options)
        with contextlib.ExitStack() as stack:
            self._engine = stack.enter_context(open_engine(engine, self._options.model or settings.policy))
            weakref.finalize(self, stack.pop_all().close)
        self._chat = wants_chat(None, self._engine.tokenizer)

    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """Grades every response of every tree."""
        asked = {
            f"{tree.id}/{place}": asked_as(self._question(tree, node), self._chat)
            for tree in trees
            for place, node in enumerate(tree.nodes)
        }
        requests = []
        for id, prompt in asked.items():
            ids = self._engine.prompt_ids(prompt)
            if self._engine.context is None or len(ids) < self._engine.context:
                requests.append(Request(id, ids, self._options.votes, seed_of(self._options.seed, id)))
        sampling = Sampling(self._options.max_new_tokens, self._options.temperature)
        replies = {rollout.id: [one.text for one in rollout.completions] for rollout in self._engine.generate(requests, sampling)}
        return [[self._score(replies.get(f"{tree.id}/{place}", [])) for place in range(len(tree.nodes))] for tree in trees]

    def _question(self, tree: PreferenceTree, node: Node) -> str:
        return self._template.replace("{instruction}", _text(tree.prompt)).replace("{response}", _text(node.text).strip())

    def _score(self, replies: Sequence[str]) -> Score:
        grades = [grade for text in replies if (grade := read_grade(text, self._options.highest)) is not None]
        return Score(fmean(grades) if grades else None, {"readable": float(len(grades))})


def template_of(file: str | None) -> str:
    """The text of a grading prompt.

    Raises:
        AlignError: there is no such file, or it lacks a place.
    """
    if file is None:
        return TEMPLATE
    if not Path(file).is_file():
        raise AlignError(f"rounds.scorers: llm: options.template '{file}': no such file")
    text = Path(file).read_text(encoding="utf-8")
    for place in PLACES:
        if place not in text:
            raise AlignError(f"rounds.scorers: llm: options.template '{file}': there is no {place} in it")
    return text


def read_grade(reply: str, highest: float = 5.0) -> float | None:
    """The grade that a reply ends with; None where it states none from 0 to `highest`. "A score of 4" counts where no other form stands.

    >>> read_grade("It helps. Score: 4"), read_grade("**Score:** 3.5/5"), read_grade("Score: 9"), read_grade("Good.")
    (4.0, 3.5, None, None)
    """
    stated = list(_SCORE.finditer(reply)) or list(_SCORE_OF.finditer(reply))
    grade = float(stated[-1][stated[-1].lastindex or 0]) if stated else None
    return grade if grade is not None and 0 <= grade <= highest else None


def _text(content: str | list[dict[str, object]]) -> str:
    """A prompt or response as a person reads it: messages one after the other, each behind its role."""
    if isinstance(content, str):
        return content
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in content)
