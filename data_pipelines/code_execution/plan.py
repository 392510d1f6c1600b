"""Preferences from executed programs as stages: problems → sample → execute → pair (arXiv 2410.18585)."""

from __future__ import annotations

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.methods import Sandboxing
from align.runs import External, Input, Output, Stage
from data_pipelines.code_execution.sandbox import Limits
from data_pipelines.code_execution.settings import (
    ChooseSettings,
    ExecuteSettings,
    PairProgramsSettings,
    ProblemSource,
    SandboxSettings,
)
from data_pipelines.rollouts.plan import engine_settings, sampling_settings
from data_pipelines.rollouts.settings import SampleSettings
from data_pipelines.rounds import Round, check_only_loop

_HERE = "data_pipelines.code_execution"
MICRO = "micro:code"


class CodeMethod:
    """A recipe with `code`; see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        """
        Raises:
            AlignError: sections that the method needs are missing.
        """
        if recipe.rollouts is None:
            raise AlignError("code: a recipe with code needs the section `rollouts`, which says how to sample")
        assert recipe.code is not None
        evaluation = recipe.evaluation
        self._micro = recipe.model.name_or_path == MICRO
        self.policy = self._source(recipe.model.name_or_path, "model")
        self.reference = self.policy
        self.tested: Input | None = None
        if evaluation is not None:
            if evaluation.questions is None and not self._micro:
                raise AlignError("evaluation.questions is missing: where the problems stand that are tested on")
            self.tested = self._source(evaluation.questions, "test.jsonl")
        self.start: list[Stage] = []
        if self._micro:
            made = {"seed": recipe.training.get("seed", 42)}
            self.start.append(Stage("start/prepare", "data_pipelines.micro.code_start:prepare", made))

    def _source(self, name: str | None, made: str) -> Input:
        return Output("start/prepare", made) if self._micro and (name is None or name == MICRO) else External(str(name))

    def _problems(self, recipe: Recipe) -> Stage:
        """The problems that all rounds sample for."""
        rollouts, code = recipe.rollouts, recipe.code
        assert rollouts is not None
        assert code is not None
        settings = ChooseSettings(
            source=ProblemSource(rollouts.prompts_split, code.format, rollouts.limit, recipe.data.max_rejected_share),
            tests_from=code.tests_from, chat=bool(rollouts.chat), check_solutions=code.check_solutions,
            sandbox=sandbox_settings(code.sandbox),
        )  # fmt: skip
        benchmarks = [*([self.tested] if self.tested is not None else []), *map(External, code.decontaminate)]
        inputs: dict[str, Input] = {"problems": self._source(rollouts.prompts, "problems.jsonl")}
        inputs |= {f"benchmark-{number}": source for number, source in enumerate(benchmarks)}
        return Stage("problems", f"{_HERE}.stages:choose_problems", settings.as_json(), inputs)

    def check(self, recipe: Recipe) -> None:
        """Raises AlignError: see `Method`."""
        assert recipe.rollouts is not None
        check_only_loop(recipe.rounds, "code")
        if recipe.rollouts.temperature == 0.0:
            raise AlignError("rollouts.temperature is 0: samples at temperature 0 are all the same program; set a temperature")

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """Choose the problems in the first round; sample programs for the round's, run them, and pair them."""
        recipe, (part, parts) = round.recipe, round.part
        rollouts, code = recipe.rollouts, recipe.code
        assert rollouts is not None
        assert code is not None
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


def sandbox_settings(sandbox: Sandboxing) -> SandboxSettings:
    """A recipe's sandbox in the form that stages read."""
    limits = Limits(seconds=sandbox.seconds, memory=int(sandbox.memory_gb * (1 << 30)))
    return SandboxSettings(sandbox.isolation, tuple(sandbox.packages), sandbox.confirm, sandbox.tolerance, limits)
