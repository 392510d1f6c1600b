"""Chain of preference optimization as stages: search → edges (arXiv 2406.09136)."""

from __future__ import annotations

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.methods import JudgeChoice as JudgeSection
from align.recipes.methods import Thoughts
from align.recipes.schema import Rollouts
from align.runs import External, Input, Output, Stage
from data_pipelines import benchmarks
from data_pipelines.micro import starts
from data_pipelines.rollouts.plan import beside, engine_settings, sampling_settings
from data_pipelines.rounds import Effort, Lengths, Round
from data_pipelines.thought_trees import judges
from data_pipelines.thought_trees.search import SearchSettings
from data_pipelines.thought_trees.settings import HeldOut, JudgeChoice, QuestionSource, SearchStageSettings, StepEdgeSettings
from data_pipelines.thought_trees.tasks import check_first_question, file_input, load_task

_HERE = "data_pipelines.thought_trees"
ANOTHER_ROUND = 1 << 20  # between the seeds of rounds


class ThoughtMethod:
    """A recipe with `thoughts`; see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        """
        Raises:
            AlignError: sections that the method needs are missing.
        """
        self.start, self.setup = starts.start_of(recipe, *starts.QUESTIONS), list[Stage]()
        self.policy = self.start.source(recipe.model.name_or_path, "model")
        self.reference: Input = External(recipe.model.reference) if recipe.model.reference else self.policy
        self._questions = self.start.source(recipe.section(Rollouts).prompts, "questions.jsonl")
        self._held_out = benchmarks.held_out(recipe, self.start)

    def searched(self, recipe: Recipe, name: str, questions: HeldOut, source: Input) -> list[Stage]:
        """The policy's search of questions, and its grades."""
        inputs = {"model": self.policy, "questions": source, **_reference(recipe)}
        asked = QuestionSource(questions.split, questions.limit)
        search = self._search(recipe, f"{name}search", inputs, asked, recipe.seed + 1, questions.task)
        trees: dict[str, Input] = {"searches": Output(search.name, "searches"), "cost": Output(search.name, "cost")}
        return [search, Stage(f"{name}grade", "eval.chain_of_thought:grade_searches", {}, trees)]

    def check(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        if recipe.section(Rollouts).temperature == 0.0:
            raise AlignError("rollouts.temperature is 0: thoughts sampled at temperature 0 are all the same; set a temperature")

    def check_parts(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        thoughts = recipe.section(Thoughts)
        task, judge = load_task(thoughts.task), thoughts.judge
        judges.find_judge(judge.name)
        if judge.name == "self_evaluation" and task.judge is None:
            raise AlignError(
                f"thoughts.judge: the task '{thoughts.task}' has no `judge`, which 'self_evaluation' needs: choose another judge"
            )
        known = task.data.gold is not None or task.data.gold_always is not None
        if not known and (judge.name == "checker" or thoughts.edges.paths == "gold"):
            raise AlignError(f"thoughts: the task '{thoughts.task}' names no gold answers (data.gold), which checker and paths: gold need")
        if judge.name == "implicit" and recipe.model.reference is None:
            raise AlignError("model.reference is missing: the judge 'implicit' needs the model that the policy was tuned from")
        if thoughts.keep < 1 or (thoughts.keep_at_most is not None and thoughts.keep > thoughts.keep_at_most):
            most = "or more" if thoughts.keep_at_most is None else f"to keep_at_most ({thoughts.keep_at_most})"
            raise AlignError(f"thoughts.keep is {thoughts.keep}: expected 1 {most}")
        check_first_question(task, self._questions, recipe.section(Rollouts).prompts_split)

    def data_sets(self, recipe: Recipe) -> list[tuple[str, str]]:
        """None of its own."""
        return []

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """Search the round's questions, and make the preferences."""
        recipe, (part, parts) = round.recipe, round.part
        rollouts, thoughts = recipe.section(Rollouts), recipe.section(Thoughts)
        inputs = {"model": round.policy, "questions": self._questions, **self._held_out[1]}
        if recipe.model.reference:
            inputs["reference"] = round.before
        source = QuestionSource(rollouts.prompts_split, rollouts.limit, part, parts)
        seed = round.seed + (round.number - 1) * ANOTHER_ROUND
        search = self._search(recipe, f"{round.prefix}search", inputs, source, seed, thoughts.task, self._held_out[0])
        searches: dict[str, Input] = {"searches": Output(search.name, "searches")}
        if rollouts.chat and thoughts.edges.form != "responses":
            searches["model"] = round.policy  # whose chat template its unfinished answers are rendered with
        rules = StepEdgeSettings(**thoughts.edges.model_dump(exclude_none=True), seed=round.seed)
        edges = Stage(f"{round.prefix}edges", f"{_HERE}.stages:make_edges", rules.as_json(), searches)
        return [search, edges], Output(edges.name, "pairs.jsonl")

    def effort(self, recipe: Recipe, lengths: Lengths) -> Effort:
        """Thoughts and judgements: k for the question, then k for each kept path; a judgement is as long as a thought."""
        rollouts, thoughts = recipe.section(Rollouts), recipe.section(Thoughts)
        steps, prompts = load_task(thoughts.task).steps, lengths.prompts_of_round(recipe)
        candidates = [rollouts.samples * (1 if step == 0 else thoughts.keep) for step in range(steps)]
        thought = lengths.response_tokens / steps
        sampled = prompts * (sum(candidates) + _judged(thoughts, candidates)) * thought
        read, judge = 0.0, thoughts.judge.name
        for step, paths in enumerate(candidates, 1):  # the implicit reward reads a question once, for all paths
            if judge in ("implicit", "reward_model"):
                asked = 1 if judge == "implicit" else paths
                read += prompts * (2 if judge == "implicit" else 1) * (asked * lengths.prompt_tokens + paths * step * thought)
        return Effort({"search": sampled}, {"judge": read} if read else {}, leaves=rollouts.samples)

    @staticmethod
    def _search(
        recipe: Recipe,
        name: str,
        inputs: dict[str, Input],
        source: QuestionSource,
        seed: int,
        task: str,
        held_out: tuple[HeldOut, ...] = (),
    ) -> Stage:
        rollouts, thoughts = recipe.section(Rollouts), recipe.section(Thoughts)
        settings = SearchStageSettings(
            task=task, source=source, held_out=held_out, chat=bool(rollouts.chat), system=rollouts.system,
            engine=engine_settings(recipe), sampling=sampling_settings(rollouts), dtype=recipe.model.dtype, together=thoughts.together,
            judge=_judge(recipe),
            search=SearchSettings(
                rollouts.samples, thoughts.keep, thoughts.keep_at_most, thoughts.min_value, thoughts.min_characters, seed,
            ),
        )  # fmt: skip
        inputs = inputs | file_input(task, *(questions.task for questions in held_out))
        resources = {"processes": recipe.resources.processes, "gpus_per_process": recipe.engine_gpus}
        return Stage(name, f"{_HERE}.stages:search_questions", settings.as_json(), inputs, resources)


def _judged(thoughts: Thoughts, candidates: list[int]) -> float:
    """Thoughts as long as what the judge writes of one question: a judgement is as long as a thought, a completion as all that follow.

    Args:
        thoughts: with the judge.
        candidates: paths that are judged, by step.
    """
    judge, steps = thoughts.judge, len(candidates)
    if not judges.samples(judge.name) or judge.options.get("url") is not None:  # a running server's work is none of the run's
        return 0.0
    if judge.name == "answer":
        return judge.votes * sum(paths * (steps - step) for step, paths in enumerate(candidates, 1))
    if judge.name == "vote":
        families = 1 if judge.options.get("among") == "level" else thoughts.keep
        return judge.votes * (1 + families * (steps - 1))
    return judge.votes * sum(candidates)


def _judge(recipe: Recipe) -> JudgeChoice:
    """Who judges, with the recipe's engine settings where another model does."""
    read = _read(recipe.section(Thoughts).judge)
    options = read.options
    if read.name == "steps" and options.get("model") is not None:
        options = beside(recipe, options) | options
    return JudgeChoice(**read.model_dump() | {"options": options})


def _read(judge: JudgeSection) -> JudgeSection:
    """A recipe's judge with the keys that it reads."""
    unread = [] if judges.samples(judge.name) else ["votes", "temperature"]
    return judge.with_defaults(*unread, *(["options"] if judge.name == "checker" else []))


def _reference(recipe: Recipe) -> dict[str, Input]:
    return {"reference": External(recipe.model.reference)} if recipe.model.reference else {}
