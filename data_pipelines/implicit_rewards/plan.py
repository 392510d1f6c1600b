"""A recipe with `rounds` as the stages of a run: (sample → filter → score → pair → train → evaluate) × R."""

from __future__ import annotations

from typing import Any

from align.errors import AlignError
from align.recipes import Recipe
from align.runs import External, Input, Output, Stage
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
    _check(recipe)
    assert recipe.rounds is not None
    seed = recipe.training.get("seed", 42)
    micro = recipe.model.name_or_path == MICRO
    stages = [Stage("start/prepare", "data_pipelines.micro.style_start:prepare", {"seed": seed})] if micro else []
    sources = _Sources(recipe, micro)
    models = [sources.reference, sources.policy]  # π₀, π₁, …: the reference of a round stands before its policy
    if evaluation:
        stages.append(_with(evaluation, "start/evaluate", {"model": sources.policy}))
    for number in range(1, recipe.rounds.count + 1):
        stages += _round(recipe, number, seed, models[-1], models[-2], sources, training)
        models.append(Output(f"round-{number}/train", "model"))
        if evaluation:
            stages.append(_with(evaluation, f"round-{number}/evaluate", {"model": models[-1]}))
    return stages


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


def _round(recipe: Recipe, number: int, seed: int, policy: Any, reference: Any, sources: _Sources, training: Stage) -> list[Stage]:
    rounds, resources = recipe.rounds, recipe.resources
    assert rounds is not None
    name = f"round-{number}"
    shared = {"processes": resources.processes}
    sampling = Stage(
        f"{name}/sample", "data_pipelines.rollouts.stages:sample", _sampling(recipe, number, seed),
        {"model": policy, "prompts": sources.prompts}, shared | {"gpus_per_process": recipe.engine_gpus},
    )  # fmt: skip
    filtering = Stage(
        f"{name}/filter", f"{_HERE}.filtering:filter_samples", rounds.filter.model_dump(), {"samples": Output(sampling.name, "samples")}
    )
    scorers = [choice.model_dump() for choice in rounds.scorers]
    scoring = Stage(
        f"{name}/score", f"{_HERE}.scoring:score",
        {"scorers": [{"name": c["name"], "options": c["options"]} for c in scorers], "policy_scores": rounds.policy_scores,
         "dtype": recipe.model.dtype, "max_tokens": rounds.max_tokens_per_row},
        {"trees": Output(filtering.name, "trees.jsonl"), "policy": policy, "reference": reference}, shared,
    )  # fmt: skip
    inputs: dict[str, Input] = {"trees": Output(filtering.name, "trees.jsonl"), "scores": Output(scoring.name, "scores")}
    stages = [sampling, filtering, scoring]
    if rounds.replay:
        inputs["offline"] = sources.offline
    if rounds.exploration == "reference":
        single = {**sampling.settings, "samples": 1, "seed": seed + 1}
        stages.append(_with(sampling, f"{name}/explore", {"model": reference, "prompts": sources.prompts}, single))
        inputs["exploration"] = Output(f"{name}/explore", "samples")
    pairing = {
        "scorers": [{"name": c["name"], "weight": c["weight"]} for c in scorers], "quantile": rounds.quantile,
        "length_unit": rounds.length_unit, "length_alpha": rounds.length_alpha, "pairing": rounds.pairing, "replay": rounds.replay,
        "offline_split": recipe.data.train_split, "offline_columns": recipe.data.columns,
        "max_rejected_share": recipe.data.max_rejected_share, "seed": seed,
    }  # fmt: skip
    stages.append(Stage(f"{name}/pair", f"{_HERE}.pairing:pair", pairing, inputs))
    stages.append(_with(training, f"{name}/train", {"model": policy, "data": Output(f"{name}/pair", "pairs.jsonl")}))
    return stages


def _sampling(recipe: Recipe, number: int, seed: int) -> dict[str, Any]:
    rollouts, rounds = recipe.rollouts, recipe.rounds
    assert rollouts is not None
    assert rounds is not None
    part = {"part": number - 1, "parts": rounds.count} if rounds.prompts == "split" else {}
    return {
        "source": {"split": rollouts.prompts_split, "limit": rollouts.limit, "column": rollouts.prompts_column}, **part,
        "chat": rollouts.chat, "samples": rollouts.samples, "seed": seed, "round": number,
        "engine": engine_settings(recipe), "sampling": sampling_settings(rollouts),
    }  # fmt: skip


def _with(stage: Stage, name: str, inputs: dict[str, Any], settings: Any = None) -> Stage:
    return Stage(name, stage.function, stage.settings if settings is None else settings, inputs, stage.resources)


def _check(recipe: Recipe) -> None:
    rounds = recipe.rounds
    assert rounds is not None
    if recipe.rollouts is None:
        raise AlignError("rounds: a recipe with rounds needs the section `rollouts`, which says how to sample")
    if recipe.rollouts.temperature == 0.0:
        raise AlignError("rollouts.temperature is 0: samples above 1 at temperature 0 are all the same response; set a temperature")
    if rounds.count < 1:
        raise AlignError(f"rounds.count is {rounds.count}: expected 1 or more")
    implicit = any(choice.name == "implicit" for choice in rounds.scorers)
    needed = implicit or rounds.exploration == "reference"
    if needed and recipe.model.reference is None and recipe.model.name_or_path != MICRO:
        raise AlignError("model.reference is missing: implicit rewards and exploration need the model that the policy was tuned from")
    if len({choice.name for choice in rounds.scorers}) < len(rounds.scorers):
        raise AlignError("rounds.scorers names a scorer twice")
    explores = "selm" in _loss_types(recipe.training.get("loss_type"))
    if (rounds.exploration == "reference") != explores:
        raise AlignError(
            "rounds.exploration: reference and training.loss_type: [selm] belong together: the third response is what the loss reads"
        )
    if rounds.filter.min_responses > recipe.rollouts.samples:
        raise AlignError(f"rounds.filter.min_responses is {rounds.filter.min_responses}, but only {recipe.rollouts.samples} are sampled")


def _loss_types(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
