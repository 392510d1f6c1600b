"""Chain of preference optimization as stages: search → edges (arXiv 2406.09136)."""

from __future__ import annotations

from align.errors import AlignError
from align.recipes import Recipe
from align.runs import External, Input, Output, Stage
from data_pipelines.rollouts.plan import engine_settings, sampling_settings
from data_pipelines.rounds import Round, check_only_loop
from data_pipelines.thought_trees.search import SearchSettings
from data_pipelines.thought_trees.settings import HeldOut, JudgeChoice, QuestionSource, SearchStageSettings, StepEdgeSettings
from data_pipelines.thought_trees.tasks import file_input

_HERE = "data_pipelines.thought_trees"
MICRO = ("micro:sums", "micro:careless")
ANOTHER_ROUND = 1 << 20  # between the seeds of rounds


class ThoughtMethod:
    """A recipe with `thoughts`; see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        """
        Raises:
            AlignError: sections that the method needs are missing.
        """
        if recipe.rollouts is None:
            raise AlignError("thoughts: a recipe with thoughts needs the section `rollouts`, which says how to sample")
        evaluation = recipe.evaluation
        self._micro = recipe.model.name_or_path in MICRO
        self.start: list[Stage] = []
        if self._micro:
            made = {"kind": recipe.model.name_or_path.partition(":")[2], "seed": recipe.training.get("seed", 42)}
            self.start.append(Stage("start/prepare", "data_pipelines.micro.thought_start:prepare", made))
        self.policy = self._source(recipe.model.name_or_path, "model")
        self.reference: Input = External(recipe.model.reference) if recipe.model.reference else self.policy
        self.tested: Input | None = None
        if evaluation is not None:
            if evaluation.questions is None and not self._micro:
                raise AlignError("evaluation.questions is missing: where the questions stand that are tested on")
            self.tested = self._source(evaluation.questions, "test.jsonl")
        self._questions = self._source(recipe.rollouts.prompts, "questions.jsonl")

    def _source(self, name: str | None, made: str) -> Input:
        return Output("start/prepare", made) if self._micro and (name is None or name in MICRO) else External(str(name))

    def searched(self, recipe: Recipe) -> list[Stage]:
        """The policy's search of the questions that are tested on, as the start is measured."""
        assert recipe.evaluation is not None
        assert self.tested is not None
        source = QuestionSource(recipe.evaluation.questions_split, recipe.evaluation.problems)
        inputs = {"model": self.policy, "questions": self.tested}
        seed = int(recipe.training.get("seed", 42)) + 1
        search = _search(recipe, "start/search", inputs, source, seed, recipe.evaluation.questions_task)
        found: dict[str, Input] = {"searches": Output("start/search", "searches"), "cost": Output("start/search", "cost")}
        return [search, Stage("start/grade", "eval.chain_of_thought:grade_searches", {}, found)]

    def check(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        assert recipe.rollouts is not None
        check_only_loop(recipe.rounds, "thoughts")
        if recipe.rollouts.temperature == 0.0:
            raise AlignError("rollouts.temperature is 0: thoughts sampled at temperature 0 are all the same; set a temperature")

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """Search the round's questions, and make the preferences."""
        recipe, (part, parts) = round.recipe, round.part
        rollouts, thoughts = recipe.rollouts, recipe.thoughts
        assert rollouts is not None
        assert thoughts is not None
        inputs = {"model": round.policy, "questions": self._questions}
        if self.tested is not None:
            inputs["held_out"] = self.tested
        if recipe.model.reference:
            inputs["reference"] = round.before
        source = QuestionSource(rollouts.prompts_split, rollouts.limit, part, parts)
        search = _search(recipe, f"{round.prefix}search", inputs, source, round.seed + (round.number - 1) * ANOTHER_ROUND)
        searches: dict[str, Input] = {"searches": Output(search.name, "searches")}
        if rollouts.chat and thoughts.edges.form != "responses":
            searches["model"] = round.policy  # whose chat template its unfinished answers are rendered with
        rules = StepEdgeSettings(**thoughts.edges.model_dump(exclude_none=True), seed=round.seed)
        edges = Stage(f"{round.prefix}edges", f"{_HERE}.stages:make_edges", rules.as_json(), searches)
        return [search, edges], Output(edges.name, "pairs.jsonl")


def _search(recipe: Recipe, name: str, inputs: dict[str, Input], source: QuestionSource, seed: int, task: str | None = None) -> Stage:
    rollouts, thoughts, evaluation = recipe.rollouts, recipe.thoughts, recipe.evaluation
    assert rollouts is not None
    assert thoughts is not None
    held_out = None
    if evaluation is not None and "held_out" in inputs:
        held_out = HeldOut(evaluation.questions_task or thoughts.task, evaluation.questions_split, evaluation.problems)
    if recipe.model.reference:
        inputs = {"reference": External(recipe.model.reference), **inputs}
    settings = SearchStageSettings(
        task=task or thoughts.task, source=source, held_out=held_out, chat=bool(rollouts.chat), system=rollouts.system,
        engine=engine_settings(recipe), sampling=sampling_settings(rollouts), dtype=recipe.model.dtype, together=thoughts.together,
        judge=JudgeChoice(**thoughts.judge.model_dump()),
        search=SearchSettings(
            rollouts.samples, thoughts.keep, thoughts.keep_at_most, thoughts.min_value, thoughts.min_characters, seed,
        ),
    )  # fmt: skip
    inputs = inputs | file_input(task or thoughts.task, held_out.task if held_out else None)
    resources = {"processes": recipe.resources.processes, "gpus_per_process": recipe.engine_gpus}
    return Stage(name, f"{_HERE}.stages:search_questions", settings.as_json(), inputs, resources)
