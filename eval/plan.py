"""A recipe's `evaluation` as the stages that measure a model before, between and after its trainings."""

from __future__ import annotations

from align.recipes import Recipe
from align.recipes.schema import Evaluation
from align.runs import Input, Stage
from data_pipelines.code_execution.plan import sandbox_settings
from data_pipelines.code_execution.settings import ProblemSource
from data_pipelines.rollouts.plan import engine_settings
from data_pipelines.thought_trees.settings import QuestionSource
from data_pipelines.thought_trees.tasks import file_input
from eval.settings import AnswerSettings, ProgramSettings, TaskSettings


def evaluation_stage(recipe: Recipe, evaluation: Evaluation, name: str, model: Input, tested: Input | None) -> Stage:
    """The stage that measures a model.

    Args:
        recipe: without variants.
        evaluation: the recipe's.
        name: of the stage.
        model: to be measured.
        tested: questions or problems, for measures that have none of their own.
    """
    if recipe.task_of_questions is not None:
        assert tested is not None
        answers = _answers(recipe, evaluation)
        asked = {"model": model, "questions": tested, **file_input(answers.task)}
        return Stage(name, "eval.chain_of_thought:answer", answers.as_json(), asked)
    if recipe.code is not None:
        assert tested is not None
        return Stage(name, "eval.code:evaluate", _programs(recipe, evaluation).as_json(), {"model": model, "problems": tested})
    settings = TaskSettings(
        task=evaluation.task, problems=evaluation.problems, dtype=recipe.model.dtype, seed=int(recipe.training.get("seed", 42))
    )
    return Stage(name, "eval.tasks:evaluate", settings.as_json(), {"model": model})


def _answers(recipe: Recipe, evaluation: Evaluation) -> AnswerSettings:
    rollouts = recipe.rollouts
    assert rollouts is not None
    in_chat = "examples_in_chat" if recipe.thoughts is not None else "chat"  # as the questions of the training are asked
    return AnswerSettings(
        task=evaluation.questions_task or str(recipe.task_of_questions),
        source=QuestionSource(evaluation.questions_split, evaluation.problems),
        form=in_chat if rollouts.chat else "examples", system=rollouts.system, engine=engine_settings(recipe),
        stop_token_ids=tuple(rollouts.stop_token_ids), max_new_tokens=None,
    )  # fmt: skip


def _programs(recipe: Recipe, evaluation: Evaluation) -> ProgramSettings:
    rollouts, code = recipe.rollouts, recipe.code
    assert rollouts is not None
    assert code is not None
    return ProgramSettings(
        source=ProblemSource(evaluation.questions_split, limit=evaluation.problems), chat=bool(rollouts.chat), system=rollouts.system,
        seed=int(recipe.training.get("seed", 42)), engine=engine_settings(recipe), sandbox=sandbox_settings(code.sandbox),
        max_new_tokens=rollouts.max_new_tokens, stop=tuple(rollouts.stop), stop_token_ids=tuple(rollouts.stop_token_ids),
        samples=evaluation.samples, temperature=evaluation.temperature, pass_at=tuple(evaluation.pass_at),
    )  # fmt: skip
