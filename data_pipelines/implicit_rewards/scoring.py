"""The scoring stage: every response's rewards, by every scorer, journalled as they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from align.errors import AlignError
from align.rewards.scorers import Scorer, ScorerSettings, open_scorer
from align.runs import Finished, Task, Work
from align.trees import PreferenceTree, read_trees
from data_pipelines.implicit_rewards.agreement import agreement, check_sampler
from data_pipelines.implicit_rewards.settings import ScorerChoice, ScoreSettings
from data_pipelines.rollouts.samples import read_samples

BATCH = 32  # prompts between two writes


def score(task: Task) -> None:
    """Score all responses.

    Inputs: `trees`, or `samples` of another model than the policy; `policy`, `reference`; `questions`, where answers are graded.
    Settings: `ScoreSettings`. Output: `scores/`, a journal: for each prompt, of each scorer, the rewards (null: none) and details of its
    responses.

    Raises:
        AlignError: a model cannot be loaded, the tokenizers differ, or the samples are not of this policy.
    """
    settings = task.read(ScoreSettings)
    trees = _of_another_model(read_samples(task.path("samples"))) if "samples" in task.inputs else read_trees(task.path("trees"))[0]
    work = Work(task, "scores", trees, BATCH)
    if work.is_finished:
        return
    scorers: dict[str, Scorer] = {
        choice.name: open_scorer(choice.name, _settings_of(choice, task, settings)) for choice in settings.scorers
    }

    def scored(batch: list[PreferenceTree]) -> Finished:
        found = {name: scorer.score(batch) for name, scorer in scorers.items()}
        records: list[tuple[str, dict[str, Any]]] = [
            (str(tree.id), {name: [{"reward": s.reward, **s.details} for s in scores[i]] for name, scores in found.items()})
            for i, tree in enumerate(batch)
        ]
        _check_finite(records)
        if "implicit" in scorers:
            check_sampler(agreement([record["implicit"] for _, record in records]))
        return Finished(records)

    work.map(scored)


def _settings_of(choice: ScorerChoice, task: Task, settings: ScoreSettings) -> ScorerSettings:
    return ScorerSettings(
        task.inputs["policy"],
        task.inputs["reference"],
        settings.dtype,
        settings.max_tokens,
        settings.policy_scores,
        choice.options,
        task.inputs.get("questions", ""),
    )


def _of_another_model(samples: Sequence[PreferenceTree]) -> list[PreferenceTree]:
    """Samples without the sampler's log-probs, which are none of the policy's."""
    return [replace(tree, nodes=tuple(replace(node, metadata={}) for node in tree.nodes)) for tree in samples]


def _check_finite(records: Sequence[tuple[str, Mapping[str, Sequence[Mapping[str, Any]]]]]) -> None:
    for id, record in records:
        for name, scores in record.items():
            for place, entry in enumerate(scores):
                if entry["reward"] is not None and not np.isfinite(entry["reward"]):
                    raise AlignError(f"prompt {id}, response {place}: the scorer '{name}' gives {entry['reward']}, which cannot be ranked")
