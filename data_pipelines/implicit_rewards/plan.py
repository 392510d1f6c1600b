"""DICE and SELM as stages: sample → filter → score → pair (arXiv 2406.09760, 2405.19332)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import data_pipelines.implicit_rewards.known_scorers  # noqa: F401  (registers them)
from align.errors import AlignError
from align.recipes import Recipe
from align.rewards.pairing import RIGHT_OVER_WRONG, rule_ranks
from align.runs import External, Input, Output, Stage
from data_pipelines.implicit_rewards.replay import sizes
from data_pipelines.implicit_rewards.settings import FilterSettings, PairSettings, ScorerChoice, ScoreSettings, TakeSettings
from data_pipelines.rollouts.plan import engine_settings, sampling_settings
from data_pipelines.rollouts.settings import PromptSource, SampleSettings
from data_pipelines.rounds import Round
from data_pipelines.thought_trees.answered import AskSettings
from data_pipelines.thought_trees.settings import HeldOut, QuestionSource
from data_pipelines.thought_trees.tasks import file_input, load_task

MICRO = "micro:style"
QUESTIONS_MICRO = ("micro:sums", "micro:careless")
_HERE = "data_pipelines.implicit_rewards"


class RewardMethod:
    """A recipe with `rounds` whose responses are ranked by rewards; see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        """
        Raises:
            AlignError: sections that the method needs are missing.
        """
        if recipe.rollouts is None:
            raise AlignError("rounds: a recipe with rounds needs the section `rollouts`, which says how to sample")
        assert recipe.rounds is not None
        asks = recipe.rounds.questions is not None
        self._kinds = QUESTIONS_MICRO if asks else (MICRO,)
        name, seed = recipe.model.name_or_path, recipe.training.get("seed", 42)
        self._micro = name in self._kinds
        self.start: list[Stage] = []
        if self._micro and asks:
            made = {"kind": name.partition(":")[2], "seed": seed}
            self.start.append(Stage("start/prepare", "data_pipelines.micro.thought_start:prepare", made))
        elif self._micro:
            self.start.append(Stage("start/prepare", "data_pipelines.micro.style_start:prepare", {"seed": seed}))
        self.policy = self._source(name, "model" if asks else "policy")
        self.reference = self._source(recipe.model.reference or name, "model" if asks else "reference")
        self.prompts = self._source(recipe.rollouts.prompts, "questions.jsonl" if asks else "prompts.jsonl")
        self.offline = self._source(recipe.data.train, "offline.jsonl")
        self.tested: Input | None = None
        if asks:
            questions, self.prompts = self.prompts, Output("questions", "prompts.jsonl")
            if recipe.evaluation is not None:
                if recipe.evaluation.questions is None and not self._micro:
                    raise AlignError("evaluation.questions is missing: where the questions stand that are tested on")
                self.tested = self._source(recipe.evaluation.questions, "test.jsonl")
            self.start.append(self._asking(recipe, questions))

    def _source(self, name: str | None, made: str) -> Input:
        return Output("start/prepare", made) if self._micro and (name is None or name in self._kinds) else External(str(name))

    def _asking(self, recipe: Recipe, questions: Input) -> Stage:
        """How the questions of a task are asked."""
        rollouts, rounds, evaluation = recipe.rollouts, recipe.rounds, recipe.evaluation
        assert rollouts is not None
        assert rounds is not None
        held_out, inputs = None, {"questions": questions}
        if evaluation is not None and self.tested is not None:
            held_out = HeldOut(evaluation.questions_task or str(rounds.questions), evaluation.questions_split, evaluation.problems)
            inputs["held_out"] = self.tested
        settings = AskSettings(
            task=str(rounds.questions), source=QuestionSource(rollouts.prompts_split, rollouts.limit), chat=bool(rollouts.chat),
            system=rollouts.system, held_out=held_out,
        )  # fmt: skip
        inputs |= file_input(rounds.questions, held_out.task if held_out else None)
        return Stage("questions", "data_pipelines.thought_trees.answered:ask", settings.as_json(), inputs)

    def check(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        _check_round(recipe)

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """Sample, filter, score and pair; or take the pairs of the data."""
        rounds = round.recipe.rounds
        assert rounds is not None
        making = _Making(round, self)
        stages = [making.pairs_of_the_data()] if rounds.candidates == "data" else making.sampled_preferences()
        return stages, Output(stages[-1].name, "pairs.jsonl")


class _Making:
    """The stages of one round."""

    def __init__(self, round: Round, method: RewardMethod) -> None:
        self.round, self.recipe, self.method = round, round.recipe, method

    def pairs_of_the_data(self) -> Stage:
        sampling = self._sampling()
        settings = TakeSettings(source=sampling.source, part=sampling.part, parts=sampling.parts, **self._reading())
        inputs = {"offline": self.method.offline, "prompts": self.method.prompts}
        return Stage(f"{self.round.prefix}pair", f"{_HERE}.data_responses:take_pairs", settings.as_json(), inputs)

    def sampled_preferences(self) -> list[Stage]:
        rounds, resources = self.recipe.rounds, self.recipe.resources
        assert rounds is not None
        gpus = {"processes": resources.processes, "gpus_per_process": self.recipe.engine_gpus}
        asked: dict[str, Input] = {"model": self.round.policy, "prompts": self.method.prompts}
        sampling = Stage(f"{self.round.prefix}sample", "data_pipelines.rollouts.stages:sample", self._sampling().as_json(), asked, gpus)
        filtering = self._filtering()
        trees = Output(filtering.name, "trees.jsonl")
        scoring = self._scoring("score", {"trees": trees}, rounds.policy_scores)
        stages = [sampling, filtering, scoring]
        inputs: dict[str, Input] = {"trees": trees, "scores": Output(scoring.name, "scores")}
        if rounds.replay:
            inputs["offline"] = self.method.offline
        if rounds.exploration == "policy":
            exploring = sampling if _is_greedy(self.recipe) else self._exploring(gpus)
            stages += [exploring] if exploring is not sampling else []
            inputs["exploration"] = Output(exploring.name, "samples")
        if len(rounds.scorers) > 1:
            stages += self._baseline(gpus)
            inputs["baseline"] = Output(f"{self.round.prefix}score-reference", "scores")
        return [*stages, Stage(f"{self.round.prefix}pair", f"{_HERE}.pairing:pair", self._pairing().as_json(), inputs)]

    def _filtering(self) -> Stage:
        rounds = self.recipe.rounds
        assert rounds is not None
        with_data = rounds.candidates == "samples_and_data"
        settings = FilterSettings(**rounds.filter.model_dump(), **(self._reading() if with_data else {}))
        inputs: dict[str, Input] = {"samples": Output(f"{self.round.prefix}sample", "samples")}
        if with_data:
            inputs |= {"data": self.method.offline, "model": self.round.policy}
        return Stage(f"{self.round.prefix}filter", f"{_HERE}.filtering:filter_samples", settings.as_json(), inputs)

    def _exploring(self, resources: Mapping[str, Any]) -> Stage:
        """The policy's greedy response to every prompt."""
        own = self._sampling()
        greedy = replace(own.sampling, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
        settings = replace(own, samples=1, sampling=greedy).as_json()
        inputs: dict[str, Input] = {"model": self.round.policy, "prompts": self.method.prompts}
        return Stage(f"{self.round.prefix}explore", "data_pipelines.rollouts.stages:sample", settings, inputs, resources)

    def _baseline(self, resources: Mapping[str, Any]) -> list[Stage]:
        """The reference's responses and their rewards, against which several scorers are put on one scale."""
        rounds = self.recipe.rounds
        assert rounds is not None
        name = f"{self.round.prefix}sample-reference"
        settings = replace(self._sampling(), samples=rounds.reference_samples, seed=self.round.seed + 1).as_json()
        inputs: dict[str, Input] = {"model": self.round.before, "prompts": self.method.prompts}
        samples = Stage(name, "data_pipelines.rollouts.stages:sample", settings, inputs, resources)
        return [samples, self._scoring("score-reference", {"samples": Output(name, "samples")}, "rescore")]

    def _scoring(self, name: str, responses: dict[str, Input], policy_scores: str) -> Stage:
        rounds = self.recipe.rounds
        assert rounds is not None
        scorers = tuple(ScorerChoice(name=choice.name, options=choice.options) for choice in rounds.scorers)
        settings = ScoreSettings(
            scorers=scorers, policy_scores=policy_scores, dtype=self.recipe.model.dtype, max_tokens=rounds.max_tokens_per_row
        )
        inputs = {**responses, "policy": self.round.policy, "reference": self.round.before}
        if rounds.questions is not None:
            inputs |= {"questions": Output("questions", "questions.json"), **file_input(rounds.questions)}
        return Stage(
            f"{self.round.prefix}{name}",
            f"{_HERE}.scoring:score",
            settings.as_json(),
            inputs,
            {"processes": self.recipe.resources.processes},
        )

    def _pairing(self) -> PairSettings:
        rounds = self.recipe.rounds
        assert rounds is not None
        assert self.recipe.rollouts is not None
        several: dict[str, Any] = {"quantile": rounds.quantile, "beta": _beta(self.recipe)} if len(rounds.scorers) > 1 else {}
        scorers = tuple(ScorerChoice(name=choice.name, weight=choice.weight) for choice in rounds.scorers)
        return PairSettings(
            scorers=scorers, length_unit=rounds.length_unit, length_alpha=rounds.length_alpha, pairing=rounds.pairing, pairs=rounds.pairs,
            replay=rounds.replay, system=self.recipe.rollouts.system, seed=self.round.seed, round=self.round.number, **several,
            **self._reading(),
        )  # fmt: skip

    def _reading(self) -> dict[str, Any]:
        """How the preference set is read: fields of `OfflineSettings`."""
        data = self.recipe.data
        return {
            "offline_split": data.train_split, "offline_columns": data.columns, "offline_limit": data.limit,
            "max_rejected_share": data.max_rejected_share,
        }  # fmt: skip

    def _sampling(self) -> SampleSettings:
        rollouts, rounds = self.recipe.rollouts, self.recipe.rounds
        assert rollouts is not None
        assert rounds is not None
        part, parts = self.round.part
        source, sampling = PromptSource(rollouts.prompts_split, rollouts.limit, rollouts.prompts_column), sampling_settings(rollouts)
        chat = rollouts.chat
        if rounds.questions is not None:
            source, chat = PromptSource(), bool(chat)
            if not chat:
                ends = (*sampling.stop, *load_task(rounds.questions).end)  # a text that goes on with a question of its own
                sampling = replace(sampling, stop=tuple(dict.fromkeys(ends)))
        return SampleSettings(
            source=source, part=part, parts=parts, chat=chat, system=rollouts.system, samples=rollouts.samples,
            seed=self.round.seed, round=self.round.number, engine=engine_settings(self.recipe), sampling=sampling,
        )  # fmt: skip


def _is_greedy(recipe: Recipe) -> bool:
    """Whether the round's one sample of each prompt is the greedy response."""
    assert recipe.rollouts is not None
    return recipe.rollouts.temperature == 0.0 and recipe.rollouts.samples == 1


def _beta(recipe: Recipe) -> float:
    """β of the implicit reward: the training's, or that of the first of its losses that has one."""
    if (given := recipe.training.get("beta")) is not None:
        return float(given)
    from align.losses import expand  # with torch, which takes seconds

    defaults = [loss.default_beta for loss, _ in expand(_loss_types(recipe.training.get("loss_type")))]
    return next((beta for beta in defaults if beta is not None), 0.1)


def _check_round(recipe: Recipe) -> None:
    """What one round's settings must be to each other."""
    rounds, rollouts = recipe.rounds, recipe.rollouts
    assert rounds is not None
    assert rollouts is not None
    explores = {"selm", "optimism"} & set(_loss_types(recipe.training.get("loss_type")))
    if (rounds.exploration == "policy") != bool(explores):
        raise AlignError(
            "rounds.exploration: policy and training.loss_type: [selm] belong together: the third response is what the loss reads"
        )
    if rounds.candidates == "data":
        if rounds.exploration == "policy":
            raise AlignError("rounds.candidates: data samples nothing, so that there is no response for rounds.exploration: policy")
        return
    if rollouts.temperature == 0.0 and rollouts.samples > 1:
        raise AlignError("rollouts.temperature is 0: samples above 1 at temperature 0 are all the same response; set a temperature")
    _check_candidates(recipe)


def _check_candidates(recipe: Recipe) -> None:
    """What a round that samples needs; what is wrong in an override shows here, before the first round."""
    rounds, rollouts = recipe.rounds, recipe.rollouts
    assert rounds is not None
    assert rollouts is not None
    rule_ranks(rounds.pairing, 2)
    sizes(1, 1, rounds.replay)
    scorers = [choice.name for choice in rounds.scorers]
    if "implicit" in scorers and recipe.model.reference is None and recipe.model.name_or_path != MICRO:
        raise AlignError("model.reference is missing: implicit rewards need the model that the policy was tuned from")
    if len(set(scorers)) < len(scorers):
        raise AlignError("rounds.scorers names a scorer twice")
    if len(scorers) > 1 and rounds.reference_samples < 1:
        raise AlignError(f"rounds.reference_samples is {rounds.reference_samples}: several scorers need 1 or more")
    if ("answer" in scorers) != (rounds.questions is not None):
        raise AlignError("rounds.questions and rounds.scorers: [{name: answer}] belong together: the task has the gold answers")
    if rounds.questions is not None and recipe.model.name_or_path in QUESTIONS_MICRO and rounds.replay:
        raise AlignError("rounds.replay: the micro tasks of questions have no pairs to replay: set it to 0")
    if rounds.pairing == RIGHT_OVER_WRONG and rounds.length_alpha != 0.0:
        raise AlignError("rounds.pairing: right_over_wrong takes rewards as they are: set rounds.length_alpha to 0")
    if rounds.pairs is not None and rounds.pairs < 1:
        raise AlignError(f"rounds.pairs is {rounds.pairs}: expected 1 or more")
    if rounds.candidates == "samples_and_data":
        if "implicit" in scorers and rounds.policy_scores == "sampler":
            raise AlignError("rounds.policy_scores: sampler knows nothing of the responses of rounds.candidates: samples_and_data")
    elif rounds.filter.min_responses > rollouts.samples:
        raise AlignError(f"rounds.filter.min_responses is {rounds.filter.min_responses}, but only {rollouts.samples} are sampled")
    elif rollouts.samples < 2:
        raise AlignError("rollouts.samples is 1: a pair needs two responses, or the data set's own (rounds.candidates: samples_and_data)")


def _loss_types(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ["sigmoid"])
