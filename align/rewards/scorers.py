"""Scorers: what gives a response a reward. A new one is a class with `score`, named by `@SCORERS.register`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from align.registry import Registry, imported
from align.trees import PreferenceTree


@dataclass(frozen=True)
class Score:
    """A response's reward (None: its scorer cannot say), and what else its scorer has to say about it (numbers only)."""

    reward: float | None
    details: Mapping[str, float] = field(default_factory=dict)


class Scorer(Protocol):
    """Gives every response of trees of depth one a reward."""

    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """One `Score` for every node of every tree."""
        ...


@dataclass(frozen=True)
class ScorerSettings:
    """What a scorer may need to know.

    Attributes:
        policy, reference: the models of the round, as folders or names on the hub.
        dtype: precision of their weights.
        max_tokens: of a packed row.
        policy_scores: "rescore" runs the policy; "sampler" takes the log-probs that the sampler left with the responses
            (node metadata `logps`), and the policy only runs on one prompt in sixteen, to see that both agree.
        options: the scorer's own.
        questions: file with the questions that the prompts ask and their gold answers; "" where prompts are no questions of a task.
    """

    policy: str
    reference: str
    dtype: str = "auto"
    max_tokens: int = 16384
    policy_scores: str = "rescore"
    options: Mapping[str, Any] = field(default_factory=dict)
    questions: str = ""


SCORERS: Registry[Callable[[ScorerSettings], Scorer]] = Registry(
    "scorers", "rounds.scorers",
    {
        "implicit": "align.rewards.model_scorers:ImplicitReward", "reward_model": "align.rewards.model_scorers:RewardModel",
        "llm": "data_pipelines.implicit_rewards.llm_scorer:LLMScorer", "answer": "data_pipelines.thought_trees.answered:AnswerScorer",
    },
)  # fmt: skip
"""What opens a scorer. Models' libraries are imported when a scorer is opened, not when a recipe is checked."""


def open_scorer(name: str, settings: ScorerSettings) -> Scorer:
    """The scorer of that name, or, as "module:class", one of the user's own.

    Raises:
        AlignError: there is none, or it cannot be set up.
    """
    return SCORERS.find(name)(settings)


@SCORERS.register("length")
class Length:
    """The length of a response in characters, times `options.per_character` (default −0.001: shorter is better)."""

    def __init__(self, settings: ScorerSettings) -> None:
        """Args: settings, `options.per_character`."""
        self._scale = float(settings.options.get("per_character", -0.001))

    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """Counts characters."""
        return [[Score(self._scale * len(str(node.text))) for node in tree.nodes] for tree in trees]


@SCORERS.register("function")
class Function:
    """A Python function, `options.function` = "module:function", called with prompt and response; returns a number."""

    def __init__(self, settings: ScorerSettings) -> None:
        """Args: settings, `options.function`.

        Raises:
            AlignError: it cannot be imported.
        """
        self._function = imported(str(settings.options.get("function", "")), "rounds.scorers: options.function")

    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """Calls the function for every response."""
        return [[Score(float(self._function(tree.prompt, node.text))) for node in tree.nodes] for tree in trees]
