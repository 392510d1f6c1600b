"""Typed settings of the stages of rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from align.runs import StageSettings
from data_pipelines.rollouts.settings import PromptSource


@dataclass(frozen=True, kw_only=True)
class OfflineSettings(StageSettings):
    """How a preference set is read.

    Attributes:
        offline_split: of a hub data set.
        offline_columns: names of its columns, see `align.trees.records`.
        offline_limit: the first so many trees; None: all.
        max_rejected_share: of records that cannot be read, at most.
    """

    offline_split: str = "train"
    offline_columns: Mapping[str, str | None] = field(default_factory=dict)
    offline_limit: int | None = None
    max_rejected_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class FilterSettings(OfflineSettings):
    """Which samples may become preferences: settings of `filtering:filter_samples`; see the recipe's `rounds.filter`."""

    drop_truncated: bool
    min_characters: int
    max_characters: int
    max_tokens: int
    min_responses: int


@dataclass(frozen=True, kw_only=True)
class TakeSettings(OfflineSettings):
    """Settings of `data_responses:take_pairs`: the prompts whose pairs are taken, and how they are asked, as in `SampleSettings`.

    Attributes:
        chat_template: see `EngineSettings`.
    """

    source: PromptSource
    part: int = 0
    parts: int = 1
    chat: bool | None = None
    system: str | None = None
    chat_template: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScorerChoice(StageSettings):
    """A scorer by name, with its options and its weight among several."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(StageSettings):
    """Settings of `scoring:score`.

    Attributes:
        scorers: at least one.
        policy_scores, dtype, max_tokens: see `align.rewards.scorers.ScorerSettings`.
    """

    scorers: tuple[ScorerChoice, ...]
    policy_scores: str
    dtype: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class PairSettings(OfflineSettings):
    """Settings of `pairing:pair`.

    Attributes:
        scorers: whose scores there are.
        quantile, beta: with several scorers: where each is centred, and β of the implicit reward.
        length_unit, length_alpha: of the length that rewards are shaped by.
        pairing: a rule of `align.rewards.PAIRINGS`.
        pairs: of a prompt at most, drawn at random; None: all.
        replay: γ, the share of offline preferences.
        system: system message of the samples' prompts.
        seed, round: what the replayed preferences are drawn by.
    """

    scorers: tuple[ScorerChoice, ...]
    length_unit: Literal["characters", "tokens"]
    length_alpha: float | Literal["fit"]
    pairing: str
    replay: float
    seed: int
    round: int
    quantile: float = 0.85
    beta: float = 0.1
    pairs: int | None = None
    system: str | None = None
