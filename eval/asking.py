"""A suite as the stage that measures a model by it: the same for the suites of a recipe and for those of `align eval`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.recipes.measures import HARNESS, DataMeasure, HarnessMeasure, InstructionMeasure, Measure, ProgramMeasure
from align.runs import External, Input, Stage
from data_pipelines.code_execution.settings import ProblemSource, SandboxSettings
from data_pipelines.rollouts.engines import EngineSettings
from data_pipelines.rollouts.settings import PromptSource
from data_pipelines.thought_trees.settings import QuestionSource
from data_pipelines.thought_trees.tasks import file_input
from eval.settings import AnswerSettings, HarnessSettings, InstructionSettings, ProgramSettings, TaskSettings

MAX_NEW_TOKENS = 1024  # of programs and of responses to instructions, where nothing says otherwise


@dataclass(frozen=True)
class Records:
    """What a suite asks: where its records stand, their split, and the task that questions are of."""

    source: Input
    split: str
    task: str


@dataclass(frozen=True)
class Asking:
    """How a model is asked, for every suite.

    Attributes:
        engine: what decodes.
        chat: whether prompts go through the chat template; None: if the model's tokenizer has one.
        chat_form: of the forms of questions, that of the chat template.
        system: the system message of conversations that have none; "" is an empty one, None is none.
        stop_token_ids: tokens, by id or text, that end a response beside the model's own end tokens.
        stop: texts that end a program.
        max_new_tokens: longest program or response to an instruction.
        seed: of sampled programs.
        sandbox: where programs run.
        resources: of the stages.
    """

    engine: EngineSettings
    chat: bool | None = None
    chat_form: str = "chat"
    system: str | None = None
    stop_token_ids: tuple[int | str, ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    resources: Mapping[str, Any] = field(default_factory=dict)


def asking_stage(suite: DataMeasure, name: str, model: Input, records: Records, asking: Asking) -> Stage:
    """The stage that measures a model by a suite whose records align reads.

    Args:
        suite: its limit and what is its own.
        name: of the stage.
        model: to be measured.
        records: that it asks.
        asking: how; what `suite` says itself has been put in.
    """
    asked: dict[str, Any] = {"engine": asking.engine, "system": asking.system, "stop_token_ids": asking.stop_token_ids}
    settings: ProgramSettings | InstructionSettings | AnswerSettings
    own: dict[str, Input] = {}
    if isinstance(suite, ProgramMeasure):
        programs = suite if suite.samples > 1 else suite.with_defaults("temperature", "pass_at")
        settings = ProgramSettings(
            **asked, source=ProblemSource(records.split, limit=suite.problems), chat=asking.chat, seed=asking.seed, sandbox=asking.sandbox,
            max_new_tokens=asking.max_new_tokens, stop=asking.stop, samples=suite.samples,
            temperature=programs.temperature, pass_at=tuple(programs.pass_at),
        )  # fmt: skip
        function, key = "eval.code:evaluate", "problems"
    elif isinstance(suite, InstructionMeasure):
        source = PromptSource(records.split, suite.problems, "instruction")
        called = Path(model.source).name if isinstance(model, External) else model.stage
        settings = InstructionSettings(
            **asked, source=source, chat=asking.chat, max_new_tokens=asking.max_new_tokens, name=called
        )  # fmt: skip
        function, key = "eval.instructions:respond", "instructions"
    else:
        form = {None: None, True: asking.chat_form, False: "examples"}[asking.chat]
        questions = QuestionSource(records.split, suite.problems)
        settings = AnswerSettings(**asked, source=questions, task=records.task, form=form, max_new_tokens=suite.max_new_tokens)
        function, key, own = "eval.chain_of_thought:answer", "questions", file_input(records.task)
    return Stage(name, function, settings.as_json(), {"model": model, key: records.source, **own}, asking.resources)


def harness_stage(suite: HarnessMeasure, name: str, model: Input, asking: Asking) -> Stage:
    """The stage that measures a model by a task of lm-evaluation-harness; arguments as of `asking_stage`."""
    task = suite.suite.removeprefix(HARNESS)
    settings = HarnessSettings(
        task=task, shots=suite.shots, chat=asking.chat, limit=suite.problems, engine=asking.engine, system=asking.system,
        max_new_tokens=suite.max_new_tokens, stop_token_ids=asking.stop_token_ids,
    )  # fmt: skip
    own: dict[str, Input] = {"task": External(task)} if task.endswith((".yaml", ".yml")) else {}
    return Stage(name, "eval.harness:evaluate", settings.as_json(), {"model": model, **own}, asking.resources)


def micro_stage(suite: Measure, name: str, model: Input, problems: int, dtype: str, seed: int) -> Stage:
    """The stage that measures a model by a micro task.

    Args:
        suite: which.
        name: of the stage.
        model: to be measured.
        problems: how many.
        dtype: precision of the weights.
        seed: of a micro model.
    """
    settings = TaskSettings(task=suite.suite, problems=problems, dtype=dtype, seed=seed)
    return Stage(name, "eval.tasks:evaluate", settings.as_json(), {"model": model})
