"""Where the records stand that a suite asks: on the hub, in a file, or made in the run."""

from __future__ import annotations

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.measures import OWN_PROBLEMS, OWN_QUESTIONS, DataMeasure, ProgramMeasure, QuestionMeasure
from align.runs import External, Input
from data_pipelines.rounds import Start
from data_pipelines.thought_trees.settings import HeldOut

HUB = {
    "gsm8k": ("openai/gsm8k:main", "test"), "math": ("HuggingFaceH4/MATH-500", "test"), "svamp": ("ChilleD/SVAMP", "test"),
    "bamboogle": ("chiayewken/bamboogle", "test"), "hotpotqa": ("hotpotqa/hotpot_qa:fullwiki", "validation"),
    "2wikimultihopqa": ("framolfese/2WikiMultihopQA", "validation"), "fever": ("copenlu/fever_gold_evidence", "test"),
    "vitaminc": ("tals/vitaminc", "test"),
    "humaneval": ("openai/openai_humaneval", "test"), "humaneval+": ("evalplus/humanevalplus", "test"),
    "mbpp": ("google-research-datasets/mbpp:sanitized", "test"), "mbpp+": ("evalplus/mbppplus", "test"),
}  # fmt: skip
"""Suite → data set on the hub, and its split; other tasks take their data by name."""


def data_of(recipe: Recipe, suite: DataMeasure) -> tuple[str | None, str]:
    """A suite's data set, None where it must be named or is made in the run, and its split."""
    task = task_of(recipe, suite) if isinstance(suite, QuestionMeasure) else suite.suite
    own, split = HUB.get(task, (None, "test"))
    return suite.data or own, suite.split or split


def task_of(recipe: Recipe, suite: QuestionMeasure) -> str:
    """The task that a suite's questions are of.

    Raises:
        AlignError: the recipe's own is meant, which has none.
    """
    if suite.suite != OWN_QUESTIONS:
        return suite.suite
    task = recipe.method.task_of_questions
    if task is None:
        raise AlignError("measure: the suite 'questions' asks held-out questions of the recipe's task, which has none: name a task")
    return task


def tested(recipe: Recipe, suite: DataMeasure, start: Start) -> Input:
    """The records that a suite asks.

    Args:
        recipe: which measures by it.
        suite: of the recipe.
        start: what the run makes to start from; it may make questions and problems to test on, too.

    Raises:
        AlignError: they stand nowhere that is known.
    """
    if suite.data is None and suite.suite in (OWN_QUESTIONS, OWN_PROBLEMS) and start.stages:
        return start.source(None, "test.jsonl")
    data, _ = data_of(recipe, suite)
    if data is None:
        raise AlignError(f"{recipe.key_of(suite)}.data is missing: where the records stand that '{suite.suite}' asks")
    return External(data)


def held_out(recipe: Recipe, start: Start) -> tuple[tuple[HeldOut, ...], dict[str, Input]]:
    """The questions that a recipe measures by, which its training must not see: which they are, and the inputs that hold them."""
    suites = [suite for suite in recipe.measure if isinstance(suite, QuestionMeasure)]
    questions = tuple(HeldOut(task_of(recipe, suite), data_of(recipe, suite)[1], suite.problems) for suite in suites)
    return questions, {f"held_out-{number}": tested(recipe, suite, start) for number, suite in enumerate(suites)}


def held_out_problems(recipe: Recipe, start: Start) -> list[Input]:
    """The problems that a recipe measures by."""
    return [tested(recipe, suite, start) for suite in recipe.measure if isinstance(suite, ProgramMeasure)]
