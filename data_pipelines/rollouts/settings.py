"""Typed settings of the sampling stage, and of every stage that draws responses."""

from __future__ import annotations

from dataclasses import dataclass, field

from align.runs import StageSettings
from data_pipelines.rollouts.engines import EngineSettings


@dataclass(frozen=True)
class PromptSource(StageSettings):
    """Which prompts of a source are asked.

    Attributes:
        split: of a hub data set.
        limit: the first so many; None: all.
        column: where the prompt stands.
    """

    split: str = "train"
    limit: int | None = None
    column: str = "prompt"


@dataclass(frozen=True)
class SamplingSettings(StageSettings):
    """`Sampling`, with stop tokens by id or by text."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class SampleSettings(StageSettings):
    """Settings of `rollouts.stages:sample`.

    Attributes:
        source: of the prompts.
        part, parts: the prompts number `part`, `part + parts`, … are asked.
        chat: whether texts are put into the chat template; None: if the tokenizer has one.
        system: system message of conversations without one.
        samples: K, responses per prompt.
        seed, round: what the samples are drawn by, with the prompt's id.
        engine: what samples.
        sampling: how.
    """

    sampling: SamplingSettings
    engine: EngineSettings
    samples: int
    seed: int
    round: int
    source: PromptSource = field(default_factory=PromptSource)
    part: int = 0
    parts: int = 1
    chat: bool | None = None
    system: str | None = None
