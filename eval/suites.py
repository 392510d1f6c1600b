"""The suites of `align eval`: questions, mathematics, programs, instructions, and those of lm-evaluation-harness; each is a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from align.errors import AlignError, nearest
from align.recipes.measures import (
    HARNESS,
    INSTRUCTIONS,
    PROGRAMS,
    DataMeasure,
    HarnessMeasure,
    InstructionMeasure,
    ProgramMeasure,
    QuestionMeasure,
)
from align.runs import External, RunFolder, Stage
from align.validation import first_problem
from data_pipelines.benchmarks import HUB
from data_pipelines.code_execution.settings import SandboxSettings
from data_pipelines.rollouts.engines import EngineSettings
from data_pipelines.thought_trees.tasks import available_tasks
from eval import harness
from eval.asking import MAX_NEW_TOKENS, Asking, Records, asking_stage, harness_stage
from eval.comparison import differences
from eval.report.gather import Evaluation, read_evaluation

PASS_AT = [1, 5, 10, 100]
ONE_PROCESS = {"process": "suites"}  # so that all suites are asked of one engine


@dataclass(frozen=True)
class How:
    """How a model is asked.

    Attributes:
        engine: what decodes.
        chat: whether prompts go through the chat template; None: if the model's tokenizer has one.
        limit: the first so many questions of each suite.
        data: by suite, a file or data set in the place of the hub's.
        samples: n, programs a problem for pass@k, beside the greedy one.
        max_new_tokens: longest response; None: 1,024 tokens of programs and responses to instructions, as the task says of answers.
        isolation: of the sandbox.
        system: the system message of conversations that have none; "" is an empty one, None is none.
        stop_token_ids: tokens, by id or text, that end a response beside the model's own end tokens.
        shots: examples in front of each question, for suites of lm-evaluation-harness; None: as the task says.
    """

    engine: EngineSettings
    chat: bool | None = None
    limit: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    samples: int = 1
    max_new_tokens: int | None = None
    system: str | None = None
    stop_token_ids: Sequence[int | str] = ()
    isolation: Literal["require-strong", "best-available", "limits-only"] = "best-available"
    shots: int | None = None


def stages_of(suites: Sequence[str], model: str, how: How) -> list[Stage]:
    """One stage a suite.

    Raises:
        AlignError: there is no such suite, its data must be named, what it needs is not installed, or two have one name.
    """
    known = sorted({*HUB, *available_tasks(), *PROGRAMS, INSTRUCTIONS})
    for suite in suites:
        if suite.startswith(harness.PREFIX):
            harness.check(suite.removeprefix(harness.PREFIX), how.engine.engine, suite in how.data)
        elif suite not in known and not suite.endswith((".yaml", ".yml")):
            raise AlignError(f"--suite {suite}: {nearest(suite, known)}")
    for suite in how.data:
        if suite not in suites:
            raise AlignError(f"--data {suite}=…: no --suite asks for it: {nearest(suite, suites)}")
    named: dict[str, str] = {}
    for suite in suites:
        if (name := _name(suite)) in named:
            called = name.partition("/")[0]
            raise AlignError(f"--suite {suite}: its results are called '{called}', as those of --suite {named[name]}: rename or drop one")
        named[name] = suite
    return [_stage(suite, model, how) for suite in suites]


def _stage(name: str, model: str, how: How) -> Stage:
    suite = _suite(name, how)
    asking = Asking(
        how.engine, how.chat, system=how.system, stop_token_ids=tuple(how.stop_token_ids),
        max_new_tokens=how.max_new_tokens or MAX_NEW_TOKENS, sandbox=SandboxSettings(how.isolation), resources=ONE_PROCESS,
    )  # fmt: skip
    if isinstance(suite, HarnessMeasure):
        return harness_stage(suite, _name(name), External(model), asking)
    data, split = HUB.get(name, (None, "test"))
    source = how.data.get(name, data)
    if source is None:
        raise AlignError(f"--suite {name}: its data is on no hub that align knows: name it with --data {name}=FILE")
    return asking_stage(suite, _name(name), External(model), Records(External(source), split, name), asking)


def _suite(name: str, how: How) -> DataMeasure | HarnessMeasure:
    """A suite of the command line in a recipe's terms."""
    asked = {"suite": name, "problems": how.limit, "max_new_tokens": how.max_new_tokens}
    try:
        if name.startswith(HARNESS):
            return HarnessMeasure.model_validate({**asked, "shots": how.shots})
        if name in PROGRAMS:
            return ProgramMeasure.model_validate({**asked, "samples": how.samples, "pass_at": PASS_AT})
        return (InstructionMeasure if name == INSTRUCTIONS else QuestionMeasure).model_validate(asked)
    except ValidationError as error:
        raise AlignError(first_problem(error, f"--suite {name}", DataMeasure)) from error


def _name(suite: str) -> str:
    """Of a suite's stage; a harness's task apart from a task of ours that is called alike."""
    kind = "lm-" if suite.startswith(harness.PREFIX) else ""
    return f"{kind}{Path(suite.removeprefix(harness.PREFIX)).stem}/evaluate"


def read_results(suites: Sequence[str], folder: RunFolder) -> dict[str, Evaluation]:
    """The finished evaluations of a folder, by suite.

    Raises:
        AlignError: one cannot be read.
    """
    found = {}
    for suite in suites:
        stage = _name(suite)
        try:
            found[suite] = read_evaluation(stage, folder.stage(stage))
        except (OSError, ValueError, KeyError) as error:
            raise AlignError(f"{folder.stage(stage)}: no finished evaluation ({error})") from error
    return found


def remarks(results: Mapping[str, Evaluation], folder: RunFolder, others: Mapping[str, Evaluation], against: RunFolder) -> Iterator[str]:
    """What has to be known to compare two evaluations, a sentence a suite: settings that differ, questions that only one was asked.

    Args:
        results: the evaluations by suite.
        folder: where they stand.
        others: the evaluations that they are compared with.
        against: where those stand.
    """
    for suite, mine in results.items():
        differing = differences(folder.stage(_name(suite)), against.stage(_name(suite)))
        if differing:
            yield f"{suite}: the two were not asked alike (here, {against.path}): {'; '.join(differing)}. The difference may come of that."
        shared = len(mine.items.keys() & others[suite].items.keys())
        if mine.items and not shared:
            yield f"{suite}: not compared: the two have no question in common."
        elif shared < max(len(mine.items), len(others[suite].items)):
            counts = f"{len(mine.items)} here, {len(others[suite].items)} there"
            yield f"{suite}: compared on the {shared} questions that both were asked ({counts})."
