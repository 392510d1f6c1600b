"""Typed settings of the stages that measure a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from align.runs import StageSettings
from data_pipelines.code_execution.settings import ProblemSource, SandboxSettings
from data_pipelines.rollouts.engines import EngineSettings
from data_pipelines.rollouts.settings import PromptSource
from data_pipelines.thought_trees.settings import QuestionSource


@dataclass(frozen=True, kw_only=True)
class TaskSettings(StageSettings):
    """Settings of `tasks:evaluate`: a micro task by name, how many of its problems, precision of the weights, seed of a micro model."""

    task: str
    problems: int
    dtype: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class AskSettings(StageSettings):
    """What every suite is asked with.

    Attributes:
        engine: what decodes.
        system: the system message, None where there is none.
        stop_token_ids: tokens, by id or text, that end a response beside the model's own end tokens.
    """

    engine: EngineSettings
    system: str | None
    stop_token_ids: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(AskSettings):
    """Settings of `chain_of_thought:answer`.

    Attributes:
        task: its name, or a YAML file.
        source: of the questions.
        form: of `FORMS`; None: by the model's chat template.
        max_new_tokens: longest response; None: the form's.
    """

    task: str
    source: QuestionSource
    form: str | None
    max_new_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class ProgramSettings(AskSettings):
    """Settings of `code:evaluate`.

    Attributes:
        source: of the problems.
        chat: whether the problem is told in a user's message; None: if the tokenizer has a chat template.
        sandbox: where programs run.
        max_new_tokens: longest response.
        stop: texts that end it.
        samples: n, programs per problem beside the greedy one; 1: none.
        temperature: of these.
        pass_at: every k of pass@k.
        seed: of the samples.
    """

    source: ProblemSource
    chat: bool | None
    sandbox: SandboxSettings
    max_new_tokens: int
    stop: tuple[str, ...]
    samples: int
    temperature: float
    pass_at: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class InstructionSettings(AskSettings):
    """Settings of `instructions:respond`: the instructions, whether they are put into a chat template, and what the model is called."""

    source: PromptSource
    chat: bool | None
    max_new_tokens: int
    name: str


@dataclass(frozen=True, kw_only=True)
class HarnessSettings(StageSettings):
    """Settings of `harness:evaluate`.

    Attributes:
        task: of the harness, or a YAML file in its format.
        shots: examples in front of each question; None: as the task says.
        chat: whether questions are put into the chat template; None: if the tokenizer has one.
        limit: the first so many questions; None: all.
        engine: what decodes.
        system: the system message, None where there is none.
        max_new_tokens: longest response; None: as the task says.
        stop_token_ids: tokens, by id or text, that end a response beside what the task and the model say.
    """

    task: str
    shots: int | None
    chat: bool | None
    limit: int | None
    engine: EngineSettings
    system: str | None
    max_new_tokens: int | None
    stop_token_ids: tuple[int | str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The form that a stage keeps; without stop tokens that of a version that had none, whose results stay."""
        return {key: value for key, value in super().as_json().items() if key != "stop_token_ids" or value}
