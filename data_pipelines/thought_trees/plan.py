"""A recipe with `thoughts` as the stages of a run: search → edges → train, and what decoding and search reach before and after."""

from __future__ import annotations

from typing import Any

from align.errors import AlignError
from align.recipes import Recipe
from align.runs import External, Input, Output, Stage
from data_pipelines.rollouts.plan import engine_settings, sampling_settings

_HERE = "data_pipelines.thought_trees"
MICRO = ("micro:sums", "micro:careless")


def stages_of_thoughts(recipe: Recipe, training: Stage) -> list[Stage]:
    """The stages, in order.

    Args:
        recipe: with `thoughts` and `rollouts`.
        training: how any model is trained; inputs and name are filled in here.

    Raises:
        AlignError: sections that the method needs are missing.
    """
    rollouts, thoughts, evaluation = recipe.rollouts, recipe.thoughts, recipe.evaluation
    if rollouts is None:
        raise AlignError("thoughts: a recipe with thoughts needs the section `rollouts`, which says how to sample")
    assert thoughts is not None
    if rollouts.temperature == 0.0:
        raise AlignError("rollouts.temperature is 0: thoughts sampled at temperature 0 are all the same; set a temperature")
    seed = recipe.training.get("seed", 42)
    model, questions, tested = _sources(recipe)
    stages = []
    if recipe.model.name_or_path in MICRO:
        kind = recipe.model.name_or_path.partition(":")[2]
        stages.append(Stage("start/prepare", "data_pipelines.micro.thought_start:prepare", {"kind": kind, "seed": seed}))
    if evaluation is not None:
        stages.append(_answer(recipe, "start/evaluate", model, tested))
        if evaluation.search:
            source = {"split": evaluation.questions_split, "limit": evaluation.problems}
            found = {"model": model, "questions": tested}
            stages.append(_search(recipe, "start/search", found, source, seed + 1, evaluation.questions_task))
            found = {"searches": Output("start/search", "searches"), "cost": Output("start/search", "cost")}
            stages.append(Stage("start/grade", "eval.chain_of_thought:grade_searches", {}, found))
    inputs = {"model": model, "questions": questions}
    if evaluation is not None:
        inputs["held_out"] = tested
    source = {"split": rollouts.prompts_split, "limit": rollouts.limit}
    stages.append(_search(recipe, "search", inputs, source, seed))
    rules = {**thoughts.edges.model_dump(), "seed": seed}
    searches: dict[str, Input] = {"searches": Output("search", "searches")}
    if rollouts.chat and thoughts.edges.form == "steps":
        searches["model"] = model  # whose chat template its unfinished answers are rendered with
    stages.append(Stage("edges", f"{_HERE}.stages:make_edges", rules, searches))
    trained = {"model": model, "data": Output("edges", "pairs.jsonl")}
    stages.append(Stage("train", training.function, training.settings, trained, training.resources))
    if evaluation is not None:
        stages.append(_answer(recipe, "evaluate", Output("train", "model"), tested))
    return stages


def _sources(recipe: Recipe) -> tuple[Input, Input, Input]:
    """Model, questions to search, questions to be tested on."""
    assert recipe.rollouts is not None
    micro = recipe.model.name_or_path in MICRO

    def source(name: str | None, made: str, key: str) -> Input:
        if micro and (name is None or name in MICRO):
            return Output("start/prepare", made)
        if name is None and recipe.evaluation is not None:
            raise AlignError(f"{key} is missing: where the questions stand that are tested on")
        return External(str(name))

    tested = source(recipe.evaluation.questions if recipe.evaluation else None, "test.jsonl", "evaluation.questions")
    return source(recipe.model.name_or_path, "model", ""), source(recipe.rollouts.prompts, "questions.jsonl", ""), tested


def _search(recipe: Recipe, name: str, inputs: dict[str, Input], source: dict[str, Any], seed: int, task: str | None = None) -> Stage:
    rollouts, thoughts = recipe.rollouts, recipe.thoughts
    assert rollouts is not None
    assert thoughts is not None
    settings = {
        "task": task or thoughts.task, "source": source, "chat": bool(rollouts.chat), "engine": engine_settings(recipe),
        "dtype": recipe.model.dtype, "together": thoughts.together, "judge": thoughts.judge.model_dump(),
        "sampling": sampling_settings(rollouts),
        "search": {
            "thoughts": rollouts.samples, "keep": thoughts.keep, "keep_at_most": thoughts.keep_at_most, "min_value": thoughts.min_value,
            "min_characters": thoughts.min_characters, "seed": seed,
        },
    }  # fmt: skip
    if recipe.evaluation is not None and "held_out" in inputs:
        settings["held_out"] = {
            "task": recipe.evaluation.questions_task or thoughts.task, "split": recipe.evaluation.questions_split,
            "limit": recipe.evaluation.problems,
        }  # fmt: skip
    if recipe.model.reference:
        inputs = {**inputs, "reference": External(recipe.model.reference)}
    resources = {"processes": recipe.resources.processes, "gpus_per_process": recipe.engine_gpus}
    return Stage(name, f"{_HERE}.stages:search_questions", settings, inputs, resources)


def _answer(recipe: Recipe, name: str, model: Input, tested: Input) -> Stage:
    rollouts, thoughts, evaluation = recipe.rollouts, recipe.thoughts, recipe.evaluation
    assert rollouts is not None
    assert thoughts is not None
    assert evaluation is not None
    settings = {
        "task": evaluation.questions_task or thoughts.task, "source": {"split": evaluation.questions_split, "limit": evaluation.problems},
        "chat": bool(rollouts.chat), "engine": engine_settings(recipe),
    }  # fmt: skip
    return Stage(name, "eval.chain_of_thought:answer", settings, {"model": model, "questions": tested})
