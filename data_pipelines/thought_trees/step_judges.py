"""Judges of single steps, right or wrong: by a checker or a language model, or by where completions of a step end (Step-DPO)."""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from align.errors import AlignError, nearest
from align.runs import StageSettings
from data_pipelines.rollouts.engines import ENGINES, EngineSettings, open_engine
from data_pipelines.rollouts.prompts import asked_as, wants_chat
from data_pipelines.rollouts.protocol import Engine, Request, Rollout, Sampling, seed_of
from data_pipelines.thought_trees.asks import Ask, Call, Sample
from data_pipelines.thought_trees.judges import Candidate, Judgement, JudgeSettings, Level, verdict_of

TEMPLATE = """A question is answered step by step. Judge the last step alone: is it correct, given the question and the steps before it?

The question:
{question}

The steps before:
{before}

The last step:
{step}

Give your reasons in a few sentences, then end with one line: "Verdict: right" or "Verdict: wrong"."""
PLACES = ("{question}", "{before}", "{step}")
_LINE = re.compile(r"\W*Verdict\W*(\w+)\W*", re.IGNORECASE)
_VERDICTS = {"right": 1.0, "wrong": 0.0}


@dataclass(frozen=True, kw_only=True)
class StepOptions(StageSettings):
    """Options of the judge `steps`: which language model judges what the task's own checker cannot.

    Attributes:
        model: who judges; None: the model that is searched with.
        engine: what decodes another model: transformers, vllm or server.
        url: of a running server.
        max_new_tokens: longest judgement with its reasons.
        template: a text file in the place of `TEMPLATE`, with the same places.
        batch: judgements at a time of another model (transformers).
        tensor_parallel: GPUs a copy of another model is spread over (vLLM); left out, `resources.tensor_parallel`.
        engine_options: passed on to the engine; left out, `rollouts.options` where those are of the same engine.
    """

    model: str | None = None
    engine: str = "transformers"
    url: str | None = None
    max_new_tokens: int = 256
    template: str | None = None
    batch: int = 64
    tensor_parallel: int = 1
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> StepOptions:
        """Options as a recipe gives them.

        Raises:
            AlignError: one of them is none, or needs a model of its own.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise AlignError(f"thoughts.judge: steps: there is no options.{name}: {nearest(name, known)}")
        read = cls.of(options)
        ENGINES.check(read.engine)
        if read.model is None:
            for name in ("engine", "url", "batch", "tensor_parallel", "engine_options"):
                if name in options:
                    raise AlignError(
                        f"thoughts.judge: steps: options.{name} is of another model than the one searched with: name options.model"
                    )
        return read

    def text(self) -> str:
        """The judge's prompt, with its places.

        Raises:
            AlignError: there is no such file, or it lacks a place.
        """
        if self.template is None:
            return TEMPLATE
        if not Path(self.template).is_file():
            raise AlignError(f"thoughts.judge: steps: options.template '{self.template}': no such file")
        text = Path(self.template).read_text(encoding="utf-8")
        for place in PLACES:
            if place not in text:
                raise AlignError(f"thoughts.judge: steps: options.template '{self.template}': there is no {place} in it")
        return text


class StepChecker:
    """1 for a right step, 0 for a wrong one: by the task's own checker, and what that cannot see by a language model, the policy itself
    or `options.model`, which judges `votes` times; a step that states the answer must state the gold one, where it is known.

    More than half of the readable verdicts decide. Where none can be read the step has no value.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        """
        Args:
            settings: with `StepOptions` as options.

        Raises:
            AlignError: an option is none, the template lacks a place, or the engine does not start.
        """
        options = StepOptions.checked(settings.options)
        self._settings, self._template = settings, options.text()
        self._sampling = Sampling(options.max_new_tokens, settings.temperature, stop_token_ids=settings.stop_token_ids)
        self._chat, self._system = settings.chat, settings.system
        self._engine: Engine | None = None
        if options.model is not None:
            self._sampling = Sampling(options.max_new_tokens, settings.temperature)
            spread, passed_on = options.tensor_parallel, options.engine_options
            engine = EngineSettings(options.engine, settings.dtype, options.batch, spread, options.url, options=passed_on)
            with contextlib.ExitStack() as stack:
                self._engine = stack.enter_context(open_engine(engine, options.model))
                weakref.finalize(self, stack.pop_all().close)
            self._chat, self._system = wants_chat(None, self._engine.tokenizer), None

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """One request of m samples for each step that the checker cannot see."""
        seen = {candidate.node: self._seen(level, candidate) for candidate in level.candidates}
        requests = tuple(self._request(level, candidate) for candidate in level.candidates if seen[candidate.node] is None)
        rollouts: list[Rollout] = []
        if requests:
            rollouts = yield Sample(requests, self._sampling) if self._engine is None else Call(self._sampled, requests)
        said = {rollout.id: _majority(rollout) for rollout in rollouts}
        return [
            said[_name(level, candidate)] if right is None else Judgement(float(right))
            for candidate in level.candidates
            for right in (seen[candidate.node],)
        ]

    def _seen(self, level: Level, candidate: Candidate) -> bool | None:
        task = self._settings.task
        checked = task.check_step(candidate.thoughts, level.question)
        if candidate.final and level.question.gold and checked is not False:
            return task.is_right("".join(candidate.thoughts), level.question)
        return checked

    def _request(self, level: Level, candidate: Candidate) -> Request:
        how = self._settings
        places = {
            "{question}": how.task.question.format(**level.question.fields).strip(),
            "{before}": "".join(candidate.thoughts[:-1]).strip() or "(none)", "{step}": candidate.thoughts[-1].strip(),
        }  # fmt: skip
        text = re.sub("|".join(map(re.escape, PLACES)), lambda match: places[match.group()], self._template)
        seed = seed_of(how.seed, "steps", level.question.id, candidate.node)
        return Request(_name(level, candidate), asked_as(text, self._chat, self._system), how.votes, seed)

    def _sampled(self, asked: Sequence[tuple[Request, ...]]) -> list[list[Rollout]]:
        """The other model's judgements, of the requests of several questions."""
        assert self._engine is not None
        by_id = {rollout.id: rollout for rollout in self._engine.generate([one for each in asked for one in each], self._sampling)}
        return [[by_id[request.id] for request in requests] for requests in asked]


def _name(level: Level, candidate: Candidate) -> str:
    return f"{level.question.id}/steps/{candidate.node}"


def _majority(rollout: Rollout) -> Judgement:
    verdicts = [verdict_of(completion.text, _LINE, _VERDICTS) for completion in rollout.completions]
    readable = [_VERDICTS[verdict] for verdict in verdicts if verdict is not None]
    value = float(2 * sum(readable) > len(readable)) if readable else None
    tokens = sum(len(completion.token_ids) for completion in rollout.completions)
    details = {"verdicts": verdicts, "texts": [completion.text for completion in rollout.completions]}
    return Judgement(value, details, verdicts.count(None), tokens, 1)


class CompletedSteps:
    """The share of completions of a path that end in the gold answer: a step from which some come right is right, one from which all go
    wrong is wrong (Math-Shepherd, arXiv 2312.08935). `votes` is how many, sampled at `temperature`."""

    def __init__(self, settings: JudgeSettings) -> None:
        """
        Args:
            settings: without options.

        Raises:
            AlignError: there are options, or completions that would all be the same.
        """
        for name in settings.options:
            raise AlignError(f"thoughts.judge: answer: there is no options.{name}: it has no options")
        if settings.temperature == 0.0 and settings.votes > 1:
            raise AlignError("thoughts.judge.temperature is 0: the completions that `answer` samples would all be the same")
        self._settings = settings

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """One request of m completions for each path that does not state the answer yet.

        Raises:
            AlignError: the question has no gold answer.
        """
        how = self._settings
        if not level.question.gold:
            raise AlignError("the judge 'answer' needs a gold answer, and the question has none")
        requests = tuple(
            Request(
                f"{level.question.id}/answer/{c.node}", level.prompt_token_ids + c.token_ids, how.votes,
                seed_of(how.seed, "answer", level.question.id, c.node),
            )
            for c in level.candidates if not c.final
        )  # fmt: skip
        longest = max(1, how.task.steps - level.step) * how.thought_tokens
        sampling = Sampling(longest, how.temperature, stop=tuple(how.task.end), stop_token_ids=how.stop_token_ids)
        rollouts: list[Rollout] = (yield Sample(requests, sampling)) if requests else []
        by_id = {rollout.id: rollout for rollout in rollouts}
        return [self._judgement(level, c, by_id.get(f"{level.question.id}/answer/{c.node}")) for c in level.candidates]

    def _judgement(self, level: Level, candidate: Candidate, rollout: Rollout | None) -> Judgement:
        path = "".join(candidate.thoughts)
        if rollout is None:
            return Judgement(float(self._settings.task.is_right(path, level.question)))
        right = [self._settings.task.is_right(path + completion.text, level.question) for completion in rollout.completions]
        tokens = sum(len(completion.token_ids) for completion in rollout.completions)
        return Judgement(sum(right) / len(right), {"right": sum(right), "completions": len(right)}, 0, tokens, 1)
