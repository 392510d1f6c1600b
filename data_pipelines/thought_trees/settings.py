"""Typed settings of the stages of a tree-of-thought search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align.runs import StageSettings
from data_pipelines.rollouts.engines import EngineSettings
from data_pipelines.rollouts.settings import SamplingSettings
from data_pipelines.thought_trees.edges import EdgeRules
from data_pipelines.thought_trees.search import SearchSettings
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, read_questions


@dataclass(frozen=True)
class QuestionSource(StageSettings):
    """Which questions are read.

    Attributes:
        split, limit: see `read_questions`.
        part, parts: of these, the questions number `part`, `part + parts`, ….
    """

    split: str = "train"
    limit: int | None = None
    part: int = 0
    parts: int = 1

    def read(self, task: ThoughtTask, source: str) -> list[Question]:
        """The questions of a source."""
        return read_questions(task, source, self.split, self.limit)[self.part :: self.parts]


@dataclass(frozen=True)
class HeldOut(StageSettings):
    """Questions that a model is measured by: the task that they are of, and which they are. Training leaves them out."""

    task: str
    split: str
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class JudgeChoice(StageSettings):
    """Who judges the paths of a search: see the recipe's `thoughts.judge`."""

    name: str
    votes: int = 5
    temperature: float = 0.4
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchStageSettings(StageSettings):
    """Settings of `stages:search_questions`.

    Attributes:
        task: its name, or a YAML file.
        source: of the questions.
        held_out: questions to leave out.
        chat: whether questions are put into the chat template.
        system: the system message, None where there is none.
        engine, sampling: what samples thoughts, and how.
        search: how wide the search is.
        judge: who judges.
        together: questions that advance together.
        dtype: precision of the weights of judges that score.
    """

    task: str
    source: QuestionSource
    chat: bool
    system: str | None
    engine: EngineSettings
    sampling: SamplingSettings
    search: SearchSettings
    judge: JudgeChoice
    together: int
    dtype: str
    held_out: tuple[HeldOut, ...] = ()


@dataclass(frozen=True)
class StepEdgeSettings(EdgeRules, StageSettings):
    """Settings of `stages:make_edges`: `EdgeRules`."""
