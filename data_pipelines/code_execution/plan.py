"""Preferences from executed programs as stages: problems → sample → execute → pair (arXiv 2410.18585)."""

from __future__ import annotations

from align.errors import AlignError, nearest
from align.recipes import Recipe
from align.recipes.methods import Code, Sandboxing
from align.recipes.schema import Rollouts
from align.runs import External, Input, Output, Stage
from data_pipelines import benchmarks
from data_pipelines.code_execution.edges import EdgeRules
from data_pipelines.code_execution.sandbox import Limits
from data_pipelines.code_execution.settings import (
    ChooseSettings,
    ExecuteSettings,
    PairProgramsSettings,
    ProblemSource,
    SandboxSettings,
)
from data_pipelines.micro import starts
from data_pipelines.rollouts.plan import engine_settings, sampling_settings
from data_pipelines.rollouts.settings import SampleSettings
from data_pipelines.rounds import Effort, Lengths, Round
from data_pipelines.thought_trees.settings import HeldOut

_HERE = "data_pipelines.code_execution"


class CodeMethod:
    """A recipe with `code`; see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        """
        Raises:
            AlignError: sections that the method needs are missing.
        """
        self.start, self.setup = starts.start_of(recipe, starts.CODE), list[Stage]()
        self.policy = self.reference = self.start.source(recipe.model.name_or_path, "model")
        self._source = self.start.source(recipe.section(Rollouts).prompts, "problems.jsonl")
        self._held_out = benchmarks.held_out_problems(recipe, self.start)

    def _problems(self, recipe: Recipe) -> Stage:
        """The problems that all rounds sample for."""
        rollouts, code = recipe.section(Rollouts), recipe.section(Code)
        settings = ChooseSettings(
            source=ProblemSource(rollouts.prompts_split, code.format, rollouts.limit, recipe.data.max_rejected_share),
            tests_from=code.tests_from, chat=bool(rollouts.chat), check_solutions=code.check_solutions,
            sandbox=sandbox_settings(code.sandbox),
        )  # fmt: skip
        benchmark = dict.fromkeys([*self._held_out, *map(External, code.decontaminate)])  # what is tested on may be named there, too
        inputs = {"problems": self._source, **{f"benchmark-{number}": source for number, source in enumerate(benchmark)}}
        return Stage("problems", f"{_HERE}.stages:choose_problems", settings.as_json(), inputs)

    def check(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        if recipe.section(Rollouts).temperature == 0.0:
            raise AlignError("rollouts.temperature is 0: samples at temperature 0 are all the same program; set a temperature")

    def check_parts(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        from data_pipelines.code_execution.formats import FORMATS  # with torch, which takes seconds, as what follows
        from data_pipelines.code_execution.problems import Problem, read_problems
        from data_pipelines.code_execution.stages import open_sandbox, test_maker

        code, split = recipe.section(Code), recipe.section(Rollouts).prompts_split
        EdgeRules(code.pairing)
        if code.format not in (*FORMATS, "auto"):
            raise AlignError(f"code.format is '{code.format}': {nearest(code.format, [*FORMATS, 'auto'])}")
        make = test_maker(code.tests_from)
        problems: list[Problem] = []  # the first: what packages its tests import shows there
        if isinstance(self._source, External):
            problems = read_problems(self._source.source, split, format=code.format, limit=1, make_tests=make)
        open_sandbox(sandbox_settings(code.sandbox), problems).close()  # says what to install where the isolation cannot be had

    def data_sets(self, recipe: Recipe) -> list[tuple[str, str]]:
        """The benchmarks whose problems are left out."""
        return [("code.decontaminate", name) for name in recipe.section(Code).decontaminate]

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """Choose the problems in the first round; sample programs for the round's, run them, and pair them."""
        recipe, (part, parts) = round.recipe, round.part
        rollouts, code = recipe.section(Rollouts), recipe.section(Code)
        chat, sandbox = bool(rollouts.chat), sandbox_settings(code.sandbox)
        sampling = SampleSettings(
            chat=chat, system=rollouts.system, samples=rollouts.samples, seed=round.seed, round=round.number, part=part, parts=parts,
            engine=engine_settings(recipe), sampling=sampling_settings(rollouts),
        )  # fmt: skip
        shared = {"processes": recipe.resources.processes, "gpus_per_process": recipe.engine_gpus}
        asked: dict[str, Input] = {"model": round.policy, "prompts": Output("problems", "prompts.jsonl")}
        sample = Stage(f"{round.prefix}sample", "data_pipelines.rollouts.stages:sample", sampling.as_json(), asked, shared)
        sampled: dict[str, Input] = {"samples": Output(sample.name, "samples"), "problems": Output("problems", "problems.jsonl")}
        execution = ExecuteSettings(chat=chat, sandbox=sandbox).as_json()
        execute = Stage(f"{round.prefix}execute", f"{_HERE}.stages:execute", execution, sampled)
        rules = PairProgramsSettings(
            policy=code.pairing, pairs=code.pairs, min_gap=code.min_gap, drop_truncated=code.drop_truncated, seed=round.seed, chat=chat
        )
        judged = {**sampled, "verdicts": Output(execute.name, "verdicts")}
        pair = Stage(f"{round.prefix}pair", f"{_HERE}.stages:make_edges", rules.as_json(), judged)
        chosen = [self._problems(recipe)] if round.number == 1 else []
        return [*chosen, sample, execute, pair], Output(pair.name, "pairs.jsonl")

    def searched(self, recipe: Recipe, name: str, questions: HeldOut, source: Input) -> list[Stage]:
        """There is no search."""
        return []

    def effort(self, recipe: Recipe, lengths: Lengths) -> Effort:
        """All programs of a round."""
        rollouts = recipe.section(Rollouts)
        sampled = lengths.prompts_of_round(recipe) * rollouts.samples * lengths.response_tokens
        return Effort({"sample": sampled}, leaves=rollouts.samples)


def sandbox_settings(sandbox: Sandboxing) -> SandboxSettings:
    """A recipe's sandbox in the form that stages read."""
    limits = Limits(seconds=sandbox.seconds, memory=int(sandbox.memory_gb * (1 << 30)))
    return SandboxSettings(sandbox.isolation, tuple(sandbox.packages), sandbox.confirm, sandbox.tolerance, limits)
