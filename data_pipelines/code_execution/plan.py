"""A recipe with `code` as the stages of a run: problems → sample → execute → pair → train, and pass@k before and after."""

from __future__ import annotations

from typing import Any

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.schema import Sandboxing
from align.runs import External, Input, Output, Stage
from data_pipelines.rollouts.plan import engine_settings, sampling_settings

_HERE = "data_pipelines.code_execution"
MICRO = "micro:code"


def stages_of_code(recipe: Recipe, training: Stage) -> list[Stage]:
    """The stages, in order.

    Args:
        recipe: with `code` and `rollouts`.
        training: how any model is trained; inputs and name are filled in here.

    Raises:
        AlignError: sections that the method needs are missing.
    """
    rollouts, code, evaluation = recipe.rollouts, recipe.code, recipe.evaluation
    assert code is not None
    if rollouts is None:
        raise AlignError("code: a recipe with code needs the section `rollouts`, which says how to sample")
    if rollouts.temperature == 0.0:
        raise AlignError("rollouts.temperature is 0: samples at temperature 0 are all the same program; set a temperature")
    seed, chat = recipe.training.get("seed", 42), bool(rollouts.chat)
    model, problems, tested = _sources(recipe)
    sandbox = sandbox_settings(code.sandbox)
    stages = []
    if recipe.model.name_or_path == MICRO:
        stages.append(Stage("start/prepare", "data_pipelines.micro.code_start:prepare", {"seed": seed}))
    if evaluation is not None:
        stages.append(_evaluation(recipe, "start/evaluate", model, tested, sandbox, seed))
    benchmarks = [*([tested] if evaluation is not None else []), *map(External, code.decontaminate)]
    choice = {
        "source": {"format": code.format, "split": rollouts.prompts_split, "limit": rollouts.limit,
                   "max_rejected_share": recipe.data.max_rejected_share},
        "tests_from": code.tests_from, "chat": chat, "check_solutions": code.check_solutions, "sandbox": sandbox,
    }  # fmt: skip
    inputs: dict[str, Input] = {"problems": problems} | {f"benchmark-{number}": source for number, source in enumerate(benchmarks)}
    stages.append(Stage("problems", f"{_HERE}.stages:choose_problems", choice, inputs))
    sampling = {
        "source": {}, "chat": chat, "system": rollouts.system, "samples": rollouts.samples, "seed": seed, "round": 1,
        "engine": engine_settings(recipe), "sampling": sampling_settings(rollouts),
    }  # fmt: skip
    chosen = Output("problems", "problems.jsonl")
    shared = {"processes": recipe.resources.processes, "gpus_per_process": recipe.engine_gpus}
    asked: dict[str, Input] = {"model": model, "prompts": Output("problems", "prompts.jsonl")}
    stages.append(Stage("sample", "data_pipelines.rollouts.stages:sample", sampling, asked, shared))
    samples = Output("sample", "samples")
    execution = {"chat": chat, "sandbox": sandbox}
    stages.append(Stage("execute", f"{_HERE}.stages:execute", execution, {"samples": samples, "problems": chosen}))
    rules = {
        "policy": code.pairing, "pairs": code.pairs, "min_gap": code.min_gap, "drop_truncated": code.drop_truncated, "seed": seed,
        "chat": chat,
    }  # fmt: skip
    judged: dict[str, Input] = {"samples": samples, "verdicts": Output("execute", "verdicts"), "problems": chosen}
    stages.append(Stage("pair", f"{_HERE}.stages:make_edges", rules, judged))
    trained = {"model": model, "data": Output("pair", "pairs.jsonl")}
    stages.append(Stage("train", training.function, training.settings, trained, training.resources))
    if evaluation is not None:
        stages.append(_evaluation(recipe, "evaluate", Output("train", "model"), tested, sandbox, seed))
    return stages


def sandbox_settings(sandbox: Sandboxing) -> dict[str, Any]:
    """A recipe's sandbox in the form that stages read."""
    limits = {"seconds": sandbox.seconds, "memory": int(sandbox.memory_gb * (1 << 30))}
    kept = {"isolation": sandbox.isolation, "packages": sandbox.packages, "confirm": sandbox.confirm}
    return {**kept, "tolerance": sandbox.tolerance, "limits": limits}


def _sources(recipe: Recipe) -> tuple[Input, Input, Input]:
    """Model, problems to sample for, problems to be tested on."""
    assert recipe.rollouts is not None
    micro = recipe.model.name_or_path == MICRO

    def source(name: str | None, made: str, key: str) -> Input:
        if micro and (name is None or name == MICRO):
            return Output("start/prepare", made)
        if name is None and recipe.evaluation is not None:
            raise AlignError(f"{key} is missing: where the problems stand that are tested on")
        return External(str(name))

    tested = source(recipe.evaluation.questions if recipe.evaluation else None, "test.jsonl", "evaluation.questions")
    return source(recipe.model.name_or_path, "model", ""), source(recipe.rollouts.prompts, "problems.jsonl", ""), tested


def _evaluation(recipe: Recipe, name: str, model: Input, tested: Input, sandbox: dict[str, Any], seed: int) -> Stage:
    rollouts, evaluation = recipe.rollouts, recipe.evaluation
    assert rollouts is not None
    assert evaluation is not None
    settings = {
        "source": {"split": evaluation.questions_split, "limit": evaluation.problems}, "chat": bool(rollouts.chat), "seed": seed,
        "system": rollouts.system, "engine": engine_settings(recipe), "sandbox": sandbox, "max_new_tokens": rollouts.max_new_tokens,
        "stop": rollouts.stop, "stop_token_ids": rollouts.stop_token_ids,
        "samples": evaluation.samples, "temperature": evaluation.temperature, "pass_at": evaluation.pass_at,
    }  # fmt: skip
    return Stage(name, "eval.code:evaluate", settings, {"model": model, "problems": tested})
