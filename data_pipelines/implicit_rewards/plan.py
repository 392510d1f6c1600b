"""A recipe with `rounds` as the stages of a run: (sample → filter → score → pair → train → evaluate) × R."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from align import recipes
from align.errors import AlignError
from align.recipes import Recipe
from align.rewards.pairing import rule_ranks
from align.runs import External, Input, Output, Stage
from data_pipelines.implicit_rewards.replay import sizes
from data_pipelines.rollouts.plan import engine_settings, sampling_settings

MICRO = "micro:style"
_HERE = "data_pipelines.implicit_rewards"


def stages_of_rounds(recipe: Recipe, training: Stage, evaluation: Stage | None) -> list[Stage]:
    """The stages, in order.

    Args:
        recipe: with `rounds` and `rollouts`.
        training: how any model is trained; inputs and name are filled in here.
        evaluation: how any model is evaluated, if it is.

    Raises:
        AlignError: sections that the method needs are missing, or contradict each other.
    """
    assert recipe.rounds is not None
    _check(recipe)
    seed = recipe.training.get("seed", 42)
    micro = recipe.model.name_or_path == MICRO
    stages = [Stage("start/prepare", "data_pipelines.micro.style_start:prepare", {"seed": seed})] if micro else []
    sources = _Sources(recipe, micro)
    models = [sources.reference, sources.policy]  # π₀, π₁, …: the reference of a round's implicit reward stands before its policy
    if evaluation:
        stages.append(replace(evaluation, name="start/evaluate", inputs={"model": sources.policy}))
    for number in range(1, recipe.rounds.count + 1):
        own = _recipe_of_round(recipe, number)
        stages += _Round(own, number, seed, models[-1], models[-2], sources).stages(_with_settings(training, recipe, own))
        models.append(Output(f"round-{number}/train", "model"))
        if evaluation:
            stages.append(replace(evaluation, name=f"round-{number}/evaluate", inputs={"model": models[-1]}))
    return stages


def _recipe_of_round(recipe: Recipe, number: int) -> Recipe:
    """The recipe with the overrides of one round, checked as it is then."""
    assert recipe.rounds is not None
    overrides = recipe.rounds.overrides
    if len(overrides) > recipe.rounds.count:
        raise AlignError(f"rounds.overrides has {len(overrides)} entries for {recipe.rounds.count} rounds")
    changes = overrides[number - 1] if number <= len(overrides) else {}
    where = f"rounds.overrides[{number - 1}]"
    for key in changes:
        if key.split(".")[0] not in ("training", "rollouts", "rounds") or key in ("rounds.count", "rounds.prompts", "rounds.overrides"):
            raise AlignError(f"{where}: '{key}' cannot differ by round: expected keys of training, rollouts or rounds, as training.beta")
    own = recipes.changed(recipe, changes, where) if changes else recipe
    _check_round(own)
    return own


def _with_settings(training: Stage, recipe: Recipe, own: Recipe) -> Stage:
    """The training stage with what a round's overrides change; a limit of the data is one of what is replayed, not of the round's pairs."""
    changed = {key: value for key, value in own.training.items() if key not in recipe.training or recipe.training[key] != value}
    data = {**training.settings["data"], "limit": None}
    return replace(training, settings={**training.settings, "data": data, "training": {**training.settings["training"], **changed}})


class _Sources:
    """Where a run's first inputs come from."""

    def __init__(self, recipe: Recipe, micro: bool) -> None:
        assert recipe.rollouts is not None

        def source(name: str | None, made: str) -> External | Output:
            return Output("start/prepare", made) if micro and (name == MICRO or name is None) else External(str(name))

        self.policy = source(recipe.model.name_or_path, "policy")
        self.reference = source(recipe.model.reference or (None if micro else recipe.model.name_or_path), "reference")
        self.prompts = source(recipe.rollouts.prompts, "prompts.jsonl")
        self.offline = source(recipe.data.train, "offline.jsonl")


@dataclass(frozen=True)
class _Round:
    """One round's stages.

    Attributes:
        recipe: with this round's overrides.
        number: from 1.
        seed: of the run.
        policy: the model at the start of the round: it samples, also y_s of SELM, and it is the reference of the round's training.
        before: the model before it, the reference of the implicit reward.
        sources: prompts and preference set.
    """

    recipe: Recipe
    number: int
    seed: int
    policy: Input
    before: Input
    sources: _Sources

    @property
    def _name(self) -> str:
        return f"round-{self.number}"

    def stages(self, training: Stage) -> list[Stage]:
        """All stages of the round; `training` with its settings."""
        rounds = self.recipe.rounds
        assert rounds is not None
        stages = [self._pairs_of_the_data()] if rounds.candidates == "data" else self._sampled_preferences()
        pairs = Output(f"{self._name}/pair", "pairs.jsonl")
        return [*stages, replace(training, name=f"{self._name}/train", inputs={"model": self.policy, "data": pairs})]

    def _pairs_of_the_data(self) -> Stage:
        source = {key: value for key, value in self._sampling().items() if key in ("source", "part", "parts")}
        inputs = {"offline": self.sources.offline, "prompts": self.sources.prompts}
        return Stage(f"{self._name}/pair", f"{_HERE}.data_responses:take_pairs", source | self._reading(), inputs)

    def _sampled_preferences(self) -> list[Stage]:
        rounds, resources = self.recipe.rounds, self.recipe.resources
        assert rounds is not None
        gpus = {"processes": resources.processes, "gpus_per_process": self.recipe.engine_gpus}
        sampling = Stage(
            f"{self._name}/sample", "data_pipelines.rollouts.stages:sample", self._sampling(),
            {"model": self.policy, "prompts": self.sources.prompts}, gpus,
        )  # fmt: skip
        filtering = self._filtering()
        trees = Output(filtering.name, "trees.jsonl")
        scoring = self._scoring("score", {"trees": trees}, rounds.policy_scores)
        stages = [sampling, filtering, scoring]
        inputs: dict[str, Input] = {"trees": trees, "scores": Output(scoring.name, "scores")}
        if rounds.replay:
            inputs["offline"] = self.sources.offline
        if rounds.exploration == "policy":
            exploring = sampling if _is_greedy(self.recipe) else self._exploring(sampling)
            stages += [exploring] if exploring is not sampling else []
            inputs["exploration"] = Output(exploring.name, "samples")
        if len(rounds.scorers) > 1:
            stages += self._baseline(sampling)
            inputs["baseline"] = Output(f"{self._name}/score-reference", "scores")
        return [*stages, Stage(f"{self._name}/pair", f"{_HERE}.pairing:pair", self._pairing(), inputs)]

    def _filtering(self) -> Stage:
        rounds = self.recipe.rounds
        assert rounds is not None
        settings = rounds.filter.model_dump()
        inputs: dict[str, Input] = {"samples": Output(f"{self._name}/sample", "samples")}
        if rounds.candidates == "samples_and_data":
            settings |= self._reading()
            inputs |= {"data": self.sources.offline, "model": self.policy}
        return Stage(f"{self._name}/filter", f"{_HERE}.filtering:filter_samples", settings, inputs)

    def _exploring(self, sampling: Stage) -> Stage:
        """The policy's greedy response to every prompt."""
        greedy = {**sampling.settings["sampling"], "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        return replace(sampling, name=f"{self._name}/explore", settings={**sampling.settings, "samples": 1, "sampling": greedy})

    def _baseline(self, sampling: Stage) -> list[Stage]:
        """The reference's responses and their rewards, against which several scorers are put on one scale."""
        rounds = self.recipe.rounds
        assert rounds is not None
        settings = {**sampling.settings, "samples": rounds.reference_samples, "seed": self.seed + 1}
        inputs: dict[str, Input] = {"model": self.before, "prompts": self.sources.prompts}
        samples = replace(sampling, name=f"{self._name}/sample-reference", settings=settings, inputs=inputs)
        return [samples, self._scoring("score-reference", {"samples": Output(samples.name, "samples")}, "rescore")]

    def _scoring(self, name: str, responses: dict[str, Input], policy_scores: str) -> Stage:
        rounds = self.recipe.rounds
        assert rounds is not None
        settings = {
            "scorers": [{"name": choice.name, "options": choice.options} for choice in rounds.scorers], "policy_scores": policy_scores,
            "dtype": self.recipe.model.dtype, "max_tokens": rounds.max_tokens_per_row,
        }  # fmt: skip
        inputs = {**responses, "policy": self.policy, "reference": self.before}
        return Stage(f"{self._name}/{name}", f"{_HERE}.scoring:score", settings, inputs, {"processes": self.recipe.resources.processes})

    def _pairing(self) -> dict[str, Any]:
        rounds = self.recipe.rounds
        assert rounds is not None
        assert self.recipe.rollouts is not None
        names = ("length_unit", "length_alpha", "pairing", "replay")
        several = {"quantile": rounds.quantile, "beta": _beta(self.recipe)} if len(rounds.scorers) > 1 else {}
        return {
            "scorers": [{"name": choice.name, "weight": choice.weight} for choice in rounds.scorers], **several,
            **{name: getattr(rounds, name) for name in names}, **self._reading(), "system": self.recipe.rollouts.system,
            "seed": self.seed, "round": self.number,
        }  # fmt: skip

    def _reading(self) -> dict[str, Any]:
        """How the preference set is read."""
        data = self.recipe.data
        return {
            "offline_split": data.train_split, "offline_columns": data.columns, "offline_limit": data.limit,
            "max_rejected_share": data.max_rejected_share,
        }  # fmt: skip

    def _sampling(self) -> dict[str, Any]:
        rollouts, rounds = self.recipe.rollouts, self.recipe.rounds
        assert rollouts is not None
        assert rounds is not None
        part = {"part": self.number - 1, "parts": rounds.count} if rounds.prompts == "split" else {}
        return {
            "source": {"split": rollouts.prompts_split, "limit": rollouts.limit, "column": rollouts.prompts_column}, **part,
            "chat": rollouts.chat, "system": rollouts.system, "samples": rollouts.samples, "seed": self.seed, "round": self.number,
            "engine": engine_settings(self.recipe), "sampling": sampling_settings(rollouts),
        }  # fmt: skip


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


def _check(recipe: Recipe) -> None:
    rounds = recipe.rounds
    assert rounds is not None
    if recipe.rollouts is None:
        raise AlignError("rounds: a recipe with rounds needs the section `rollouts`, which says how to sample")
    if rounds.count < 1:
        raise AlignError(f"rounds.count is {rounds.count}: expected 1 or more")


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
    implicit = any(choice.name == "implicit" for choice in rounds.scorers)
    if implicit and recipe.model.reference is None and recipe.model.name_or_path != MICRO:
        raise AlignError("model.reference is missing: implicit rewards need the model that the policy was tuned from")
    if len({choice.name for choice in rounds.scorers}) < len(rounds.scorers):
        raise AlignError("rounds.scorers names a scorer twice")
    if len(rounds.scorers) > 1 and rounds.reference_samples < 1:
        raise AlignError(f"rounds.reference_samples is {rounds.reference_samples}: several scorers need 1 or more")
    if rounds.candidates == "samples_and_data":
        if implicit and rounds.policy_scores == "sampler":
            raise AlignError("rounds.policy_scores: sampler knows nothing of the responses of rounds.candidates: samples_and_data")
    elif rounds.filter.min_responses > rollouts.samples:
        raise AlignError(f"rounds.filter.min_responses is {rounds.filter.min_responses}, but only {rollouts.samples} are sampled")
    elif rollouts.samples < 2:
        raise AlignError("rollouts.samples is 1: a pair needs two responses, or the data set's own (rounds.candidates: samples_and_data)")


def _loss_types(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ["sigmoid"])
