"""DICE and SELM as stages: sample → filter → score → pair (arXiv 2406.09760, 2405.19332)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.methods import Rounds
from align.recipes.methods import ScorerChoice as ScorerSection
from align.recipes.schema import Rollouts
from align.rewards.pairing import PAIRINGS, RIGHT_OVER_WRONG, rule_ranks
from align.rewards.scorers import SCORERS
from align.runs import Input, Output, Stage
from data_pipelines import benchmarks
from data_pipelines.implicit_rewards.llm_scorer import LLMOptions
from data_pipelines.implicit_rewards.replay import sizes
from data_pipelines.implicit_rewards.settings import FilterSettings, PairSettings, ScorerChoice, ScoreSettings, TakeSettings
from data_pipelines.micro import starts
from data_pipelines.rollouts.plan import beside, engine_settings, sampling_settings
from data_pipelines.rollouts.protocol import seed_of
from data_pipelines.rollouts.settings import PromptSource, SampleSettings
from data_pipelines.rounds import Effort, Lengths, Round
from data_pipelines.thought_trees.answered import AskSettings
from data_pipelines.thought_trees.settings import HeldOut, QuestionSource
from data_pipelines.thought_trees.tasks import check_first_question, file_input, load_task

_HERE = "data_pipelines.implicit_rewards"


class RewardMethod:
    """A recipe with `rounds` whose responses are ranked by rewards; see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        """
        Raises:
            AlignError: sections that the method needs are missing.
        """
        rollouts, name = recipe.section(Rollouts), recipe.model.name_or_path
        asks = recipe.section(Rounds).questions is not None
        self.start, self.setup = starts.start_of(recipe, *(starts.QUESTIONS if asks else (starts.STYLE,))), list[Stage]()
        self.policy = self.start.source(name, "model" if asks else "policy")
        self.reference = self.start.source(recipe.model.reference or name, "model" if asks else "reference")
        self.offline = self.start.source(recipe.data.train, "offline.jsonl")
        self.prompts = self.start.source(rollouts.prompts, "prompts.jsonl")
        if asks:
            self._questions = self.start.source(rollouts.prompts, "questions.jsonl")
            self.prompts = Output("questions", "prompts.jsonl")
            self.setup.append(self._asking(recipe))

    def _asking(self, recipe: Recipe) -> Stage:
        """How the questions of a task are asked."""
        rollouts, task = recipe.section(Rollouts), str(recipe.section(Rounds).questions)
        held_out, tested = benchmarks.held_out(recipe, self.start)
        settings = AskSettings(
            task=task, source=QuestionSource(rollouts.prompts_split, rollouts.limit), chat=bool(rollouts.chat), system=rollouts.system,
            held_out=held_out,
        )  # fmt: skip
        inputs = {"questions": self._questions, **tested, **file_input(task, *(questions.task for questions in held_out))}
        return Stage("questions", "data_pipelines.thought_trees.answered:ask", settings.as_json(), inputs)

    def check(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        _check_round(recipe)

    def check_parts(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        rounds = recipe.section(Rounds)
        PAIRINGS.check(rounds.pairing)
        for choice in rounds.scorers:
            SCORERS.check(choice.name)
            if choice.name == "llm":
                options = LLMOptions.checked(choice.options)
                if options.engine == "vllm" and importlib.util.find_spec("vllm") is None:
                    raise AlignError(
                        "rounds.scorers: llm: options.engine is 'vllm', which is not installed: pip install align-preferences[vllm]"
                    )
        if not 0 <= rounds.replay < 1:
            raise AlignError(f"rounds.replay is {rounds.replay}: expected a share of offline preferences from 0 to below 1")
        if rounds.questions is not None:
            check_first_question(load_task(rounds.questions), self._questions, recipe.section(Rollouts).prompts_split)

    def data_sets(self, recipe: Recipe) -> list[tuple[str, str]]:
        """None of its own."""
        return []

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """Sample, filter, score and pair; or take the pairs of the data."""
        making = _Making(round, self)
        from_data = making.rounds.candidates == "data"
        stages = [making.pairs_of_the_data()] if from_data else making.sampled_preferences()
        return stages, Output(stages[-1].name, "pairs.jsonl")

    def searched(self, recipe: Recipe, name: str, questions: HeldOut, source: Input) -> list[Stage]:
        """There is no search."""
        return []

    def effort(self, recipe: Recipe, lengths: Lengths) -> Effort:
        """All responses, and what their scorers read and write; nothing where the data's pairs are taken."""
        rounds, rollouts = recipe.section(Rounds), recipe.section(Rollouts)
        if rounds.candidates == "data":
            return Effort()
        prompts = lengths.prompts_of_round(recipe)
        sampled = {"sample": prompts * rollouts.samples * lengths.response_tokens}
        of_data = 2 if rounds.candidates == "samples_and_data" else 0
        read, graded = _scoring_effort(rounds, rollouts.samples + of_data, lengths, rounds.policy_scores)
        if rounds.exploration == "policy" and not _is_greedy(recipe):
            sampled["explore"] = prompts * lengths.response_tokens
        if len(rounds.scorers) > 1:
            sampled["sample-reference"] = prompts * rounds.reference_samples * lengths.response_tokens
            more = _scoring_effort(rounds, rounds.reference_samples, lengths, "rescore")
            read, graded = read + more[0], graded + more[1]
        sampled |= {"grade": prompts * graded} if graded else {}
        return Effort(sampled, {"score": prompts * read} if read else {}, replayed=rounds.replay)


class _Making:
    """The stages of one round."""

    def __init__(self, round: Round, method: RewardMethod) -> None:
        self.round, self.recipe, self.method = round, round.recipe, method
        self.rounds, self.rollouts = round.recipe.section(Rounds), round.recipe.section(Rollouts)

    def pairs_of_the_data(self) -> Stage:
        sampling = self._sampling()
        settings = TakeSettings(
            source=sampling.source, part=sampling.part, parts=sampling.parts, chat=sampling.chat, system=sampling.system,
            chat_template=sampling.engine.chat_template, **self._reading(),
        )  # fmt: skip
        inputs = {"offline": self.method.offline, "prompts": self.method.prompts, "model": self.round.policy}
        return Stage(f"{self.round.prefix}pair", f"{_HERE}.data_responses:take_pairs", settings.as_json(), inputs)

    def sampled_preferences(self) -> list[Stage]:
        rounds, resources = self.rounds, self.recipe.resources
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
        rounds = self.rounds
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
        rounds = self.rounds
        name = f"{self.round.prefix}sample-reference"
        settings = replace(self._sampling(), samples=rounds.reference_samples, seed=self.round.seed + 1).as_json()
        inputs: dict[str, Input] = {"model": self.round.before, "prompts": self.method.prompts}
        samples = Stage(name, "data_pipelines.rollouts.stages:sample", settings, inputs, resources)
        return [samples, self._scoring("score-reference", {"samples": Output(name, "samples")}, "rescore")]

    def _scoring(self, name: str, responses: dict[str, Input], policy_scores: str) -> Stage:
        rounds = self.rounds
        if all(choice.name != "implicit" for choice in rounds.scorers):
            policy_scores = "rescore"  # nothing asks for the policy's
        scorers = tuple(ScorerChoice(name=choice.name, options=self._options(choice)) for choice in rounds.scorers)
        settings = ScoreSettings(
            scorers=scorers, policy_scores=policy_scores, dtype=self.recipe.model.dtype, max_tokens=rounds.max_tokens_per_row
        )
        inputs = {**responses, "policy": self.round.policy, "reference": self.round.before}
        if rounds.questions is not None:
            inputs |= {"questions": Output("questions", "questions.json"), **file_input(rounds.questions)}
        resources = {"processes": self.recipe.resources.processes}
        gpus = max((_gpus(choice.options) for choice in scorers if choice.name == "llm"), default=1)
        if gpus > 1:
            resources["gpus_per_process"] = gpus
        return Stage(f"{self.round.prefix}{name}", f"{_HERE}.scoring:score", settings.as_json(), inputs, resources)

    def _options(self, choice: ScorerSection) -> Mapping[str, Any]:
        """A scorer's options; those of `llm` with the recipe's engine settings, and with the run and the round in their seed."""
        if choice.name != "llm":
            return choice.options
        seed = seed_of(self.round.seed, self.round.number, choice.options.get("seed", 0))
        return beside(self.recipe, choice.options) | choice.options | {"seed": seed}

    def _pairing(self) -> PairSettings:
        rounds = self.rounds if self.rounds.length_alpha != 0.0 else self.rounds.with_defaults("length_unit")
        several: dict[str, Any] = {}
        choices = rounds.scorers
        if len(choices) > 1:
            several = {"quantile": rounds.quantile, "beta": _beta(self.recipe)}
        else:
            choices = [choice.with_defaults("weight") for choice in choices]
        scorers = tuple(ScorerChoice(name=choice.name, weight=choice.weight) for choice in choices)
        return PairSettings(
            scorers=scorers, length_unit=rounds.length_unit, length_alpha=rounds.length_alpha, pairing=rounds.pairing, pairs=rounds.pairs,
            replay=rounds.replay, system=self.rollouts.system, seed=self.round.seed, round=self.round.number, **several,
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
        rollouts, rounds = self.rollouts, self.rounds
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


def _scoring_effort(rounds: Rounds, responses: int, lengths: Lengths, policy_scores: str) -> tuple[float, float]:
    """Tokens that scorers read, and that they write, of so many responses to one prompt. A grade is as long as a response, or as its
    longest; a model that scores is as large as the policy; a running server's work is none of the run's."""
    read = graded = 0.0
    each_by_itself = responses * (lengths.prompt_tokens + lengths.response_tokens)
    for choice in rounds.scorers:
        if choice.name == "implicit":
            models = 2 if policy_scores == "rescore" else 1
            read += models * (lengths.prompt_tokens + responses * lengths.response_tokens)
        elif choice.name == "reward_model":
            read += each_by_itself
        elif choice.name == "llm" and choice.options.get("url") is None:
            options = LLMOptions.of(choice.options)
            read += each_by_itself
            graded += responses * options.votes * min(options.max_new_tokens, lengths.response_tokens)
    return read, graded


def _gpus(options: Mapping[str, Any]) -> int:
    """GPUs that the engine of the scorer `llm` takes, by its options."""
    return int(options.get("tensor_parallel", 1)) * int(options.get("engine_options", {}).get("pipeline_parallel_size", 1))


def _is_greedy(recipe: Recipe) -> bool:
    """Whether the round's one sample of each prompt is the greedy response."""
    rollouts = recipe.section(Rollouts)
    return rollouts.temperature == 0.0 and rollouts.samples == 1


def _beta(recipe: Recipe) -> float:
    """β of the implicit reward: the training's, or that of the first of its losses that has one."""
    if (given := recipe.training.get("beta")) is not None:
        return float(given)
    from align.losses import expand  # with torch, which takes seconds

    defaults = [loss.default_beta for loss, _ in expand(_loss_types(recipe.training.get("loss_type")))]
    return next((beta for beta in defaults if beta is not None), 0.1)


def _check_round(recipe: Recipe) -> None:
    """What one round's settings must be to each other."""
    rounds, rollouts = recipe.section(Rounds), recipe.section(Rollouts)
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
    rounds, rollouts = recipe.section(Rounds), recipe.section(Rollouts)
    rule_ranks(rounds.pairing, rounds.filter.min_responses)
    sizes(1, 1, rounds.replay)
    scorers = [choice.name for choice in rounds.scorers]
    if "implicit" in scorers and recipe.model.reference is None and recipe.model.name_or_path != starts.STYLE:
        raise AlignError("model.reference is missing: implicit rewards need the model that the policy was tuned from")
    if len(set(scorers)) < len(scorers):
        raise AlignError("rounds.scorers names a scorer twice")
    if len(scorers) > 1 and rounds.reference_samples < 1:
        raise AlignError(f"rounds.reference_samples is {rounds.reference_samples}: several scorers need 1 or more")
    if ("answer" in scorers) != (rounds.questions is not None):
        raise AlignError("rounds.questions and rounds.scorers: [{name: answer}] belong together: the task has the gold answers")
    if rounds.questions is not None and recipe.model.name_or_path in starts.QUESTIONS and rounds.replay:
        raise AlignError("rounds.replay: the micro tasks of questions have no pairs to replay: set it to 0")
    if rounds.pairing == RIGHT_OVER_WRONG and rounds.length_alpha != 0.0:
        raise AlignError("rounds.pairing: right_over_wrong takes rewards as they are: set rounds.length_alpha to 0")
    if rounds.pairs is not None and rounds.pairs < 1:
        raise AlignError(f"rounds.pairs is {rounds.pairs}: expected 1 or more")
    if rounds.candidates == "samples_and_data":
        if "implicit" in scorers and rounds.policy_scores == "sampler":
            raise AlignError("rounds.policy_scores: sampler knows nothing of the responses of rounds.candidates: samples_and_data")
    elif rounds.filter.min_responses > rollouts.samples:
        raise AlignError(f"rounds.filter.min_responses is {rounds.filter.min_responses}, but rollouts.samples is {rollouts.samples}")
    elif rollouts.samples < 2:
        raise AlignError("rollouts.samples is 1: a pair needs two responses, or the data set's own (rounds.candidates: samples_and_data)")


def _loss_types(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ["sigmoid"])
