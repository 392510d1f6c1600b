"""Typed settings of the stages of code preferences, and of every stage that runs programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from align.runs import StageSettings
from data_pipelines.code_execution.edges import EdgeRules
from data_pipelines.code_execution.sandbox import TOLERANCE, Limits


@dataclass(frozen=True)
class ProblemSource(StageSettings):
    """Which problems are read: arguments of `read_problems`."""

    split: str = "test"
    format: str = "auto"
    limit: int | None = None
    max_rejected_share: float = 0.1


@dataclass(frozen=True)
class SandboxSettings(StageSettings):
    """How programs are kept from the host: see the recipe's `code.sandbox`."""

    isolation: Literal["require-strong", "best-available", "limits-only"] = "best-available"
    packages: tuple[str, ...] = ()
    confirm: bool = False
    tolerance: float = TOLERANCE
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class ChooseSettings(StageSettings):
    """Settings of `stages:choose_problems`.

    Attributes:
        source: of the problems.
        tests_from: "module:function" that makes tests of records without.
        chat: whether the model is told the problem, or handed the beginning of the program.
        check_solutions: set aside problems whose own solution does not pass.
        sandbox: where these run.
    """

    source: ProblemSource
    tests_from: str | None
    chat: bool
    check_solutions: bool
    sandbox: SandboxSettings


@dataclass(frozen=True, kw_only=True)
class ExecuteSettings(StageSettings):
    """Settings of `stages:execute`: as the problems were asked, and where programs run."""

    chat: bool
    sandbox: SandboxSettings


@dataclass(frozen=True, kw_only=True)
class PairProgramsSettings(EdgeRules, StageSettings):
    """Settings of `stages:make_edges`: `EdgeRules`, and as the problems were asked."""

    chat: bool = False
