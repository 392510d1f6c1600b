"""A recipe's `measure` as the stages that measure a model before, between and after its trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from align.errors import AlignError, nearest
from align.recipes import Recipe
from align.recipes.measures import (
    INSTRUCTIONS,
    OWN_QUESTIONS,
    PROGRAMS,
    AskedMeasure,
    DataMeasure,
    HarnessMeasure,
    Measure,
    MicroMeasure,
    QuestionMeasure,
)
from align.recipes.methods import KNOW_THE_ANSWERS, Code
from align.runs import External, Input, Stage
from data_pipelines.benchmarks import data_of, task_of, tested
from data_pipelines.code_execution.plan import sandbox_settings
from data_pipelines.rollouts.engines import EngineSettings
from data_pipelines.rollouts.plan import chat_template, engine_settings
from data_pipelines.rounds import Method
from data_pipelines.thought_trees.settings import HeldOut
from data_pipelines.thought_trees.tasks import available_tasks, check_first_question, load_task
from eval import harness
from eval.asking import Asking, Records, asking_stage, harness_stage, micro_stage

START = "start/"
"""What the names of the stages begin with that measure the model before any training."""


def measuring(recipe: Recipe, method: Method, prefix: str, model: Input) -> list[Stage]:
    """The stages that measure a model by every suite of a recipe, named `PREFIX LABEL/evaluate`.

    Args:
        recipe: without variants.
        method: the recipe's.
        prefix: of the stages' names: "start/", "round-2/", "".
        model: to be measured.

    Raises:
        AlignError: there is no such suite, or its records stand nowhere that is known.
    """
    stages = []
    for suite in recipe.measure:
        _check_known(recipe, suite)
        stages.append(_stage(recipe, method, suite, prefix, model))
        if prefix == START and isinstance(suite, QuestionMeasure):
            stages += _searched(recipe, method, suite)
    return stages


def results_of(recipe: Recipe, suite: Measure) -> dict[str, str]:
    """The names of the stages that measured by a suite: `before` and `after` all rounds, and the `search` of the start model."""
    last = recipe.loop.prefix(recipe.loop.count)
    stages = {"before": f"{START}{suite.label}/evaluate", "after": f"{last}{suite.label}/evaluate"}
    return {**stages, "search": f"{START}{suite.label}/grade"}


def data_sets(recipe: Recipe, method: Method) -> Iterator[tuple[str, str]]:
    """Key and name of the data sets that the suites of a recipe read."""
    for suite in recipe.measure:
        source = tested(recipe, suite, method.start) if isinstance(suite, DataMeasure) else None
        if isinstance(source, External):
            yield f"{recipe.key_of(suite)}.data", source.source


def check_suites(recipe: Recipe, method: Method) -> None:
    """See that what the suites of a recipe name can be had: a wrong column shows in the first record.

    Raises:
        AlignError: what cannot.
    """
    from data_pipelines.code_execution.problems import read_problems
    from data_pipelines.code_execution.stages import open_sandbox

    for suite in recipe.measure:
        if isinstance(suite, HarnessMeasure):
            harness.check(suite.suite.removeprefix(harness.PREFIX), _engine(recipe, suite).engine, key=f"{recipe.key_of(suite)}.suite")
        source = tested(recipe, suite, method.start) if isinstance(suite, DataMeasure) else None
        if isinstance(suite, QuestionMeasure) and source is not None:
            check_first_question(load_task(task_of(recipe, suite)), source, data_of(recipe, suite)[1])
        if suite.suite in PROGRAMS and isinstance(source, External):
            assert isinstance(suite, DataMeasure)
            problems = read_problems(source.source, data_of(recipe, suite)[1], limit=1)
            open_sandbox(sandbox_settings((recipe.code or Code()).sandbox), problems).close()


def _check_known(recipe: Recipe, suite: Measure) -> None:
    known = sorted({"sums", "style", OWN_QUESTIONS, *available_tasks(), *PROGRAMS, INSTRUCTIONS})
    if isinstance(suite, QuestionMeasure) and suite.suite not in known and not suite.suite.endswith((".yaml", ".yml")):
        raise AlignError(f"{recipe.key_of(suite)}.suite is '{suite.suite}': {nearest(suite.suite, known)}")


def _stage(recipe: Recipe, method: Method, suite: Measure, prefix: str, model: Input) -> Stage:
    name = f"{prefix}{suite.label}/evaluate"
    if isinstance(suite, MicroMeasure):
        return micro_stage(suite, name, model, suite.problems, recipe.model.dtype, recipe.seed)
    assert isinstance(suite, AskedMeasure)
    asking = _asking(recipe, suite)
    if isinstance(suite, HarnessMeasure):
        return harness_stage(suite, name, model, asking)
    assert isinstance(suite, DataMeasure)
    task = task_of(recipe, suite) if isinstance(suite, QuestionMeasure) else suite.suite
    return asking_stage(suite, name, model, Records(tested(recipe, suite, method.start), data_of(recipe, suite)[1], task), asking)


def _asking(recipe: Recipe, suite: AskedMeasure) -> Asking:
    """How a suite asks: as it says itself, else as the prompts of the training are asked."""
    rollouts, method = recipe.rollouts, recipe.method
    asking = Asking(
        _engine(recipe, suite), chat=suite.chat, chat_form=method.chat_form, seed=recipe.seed,
        sandbox=sandbox_settings((recipe.code or Code()).sandbox),
    )  # fmt: skip
    if rollouts:
        chat = bool(rollouts.chat) if method.goes_on_from_texts else rollouts.chat
        asking = replace(
            asking, chat=chat if suite.chat is None else suite.chat, system=rollouts.system, stop=tuple(rollouts.stop),
            stop_token_ids=tuple(rollouts.stop_token_ids), max_new_tokens=rollouts.max_new_tokens,
        )  # fmt: skip
    return replace(asking, max_new_tokens=suite.max_new_tokens or asking.max_new_tokens)


def _engine(recipe: Recipe, suite: AskedMeasure) -> EngineSettings:
    own = engine_settings(recipe) if recipe.rollouts else EngineSettings(dtype=recipe.model.dtype, chat_template=chat_template(recipe))
    return own if suite.engine in (None, own.engine) else replace(own, engine=str(suite.engine), url=None, options={})


def _searched(recipe: Recipe, method: Method, suite: QuestionMeasure) -> list[Stage]:
    """The start model's tree search of a suite's questions."""
    judge = recipe.thoughts.judge.name if recipe.thoughts else ""
    if suite.search is False or (suite.search is None and judge in KNOW_THE_ANSWERS and judge != "checker"):
        return []  # `checker` is there to measure what search can reach
    questions = HeldOut(task_of(recipe, suite), data_of(recipe, suite)[1], suite.problems)
    stages = method.searched(recipe, f"{START}{suite.label}/", questions, tested(recipe, suite, method.start))
    if suite.search and not stages:
        raise AlignError(f"{recipe.key_of(suite)}.search is of no use without `thoughts`, which say how to search")
    return stages
