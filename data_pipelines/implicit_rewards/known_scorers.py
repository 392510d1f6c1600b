"""The scorers that need an engine or a task: who imports this can find them by name in `align.rewards.scorers.SCORERS`."""

from data_pipelines.implicit_rewards.llm_scorer import LLMScorer
from data_pipelines.thought_trees.answered import AnswerScorer

__all__ = ["AnswerScorer", "LLMScorer"]
