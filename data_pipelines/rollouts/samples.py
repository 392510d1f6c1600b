"""Samples as trees: what the sampling stage leaves and later stages read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.runs import read_journal
from align.trees import Node, PreferenceTree, from_record

if TYPE_CHECKING:
    from data_pipelines.rollouts.protocol import Rollout


def read_samples(folder: Path) -> list[PreferenceTree]:
    """The trees of a sampling stage, ordered by prompt id: the same whatever order they were sampled in."""
    return [from_record(record) for _, record in sorted(read_journal(folder).items())]


def tree_of(rollout: Rollout, prompt: str | list[dict[str, Any]]) -> PreferenceTree:
    """The samples of a prompt as a tree of leaves without edges.

    Nodes keep the sampler's token ids, and in their metadata its log-probs (`logps`, where it gave some) and `finish_reason`.
    """
    nodes = tuple(
        Node(
            completion.text,
            token_ids=completion.token_ids,
            complete=False if completion.stop_text is None else None,  # its end token, if any, stands among its token ids
            metadata={"finish_reason": completion.finish_reason}
            | ({"logps": [round(logp, 6) for logp in completion.logps]} if completion.logps else {}),
        )
        for completion in rollout.completions
    )
    return PreferenceTree(prompt, nodes, prompt_token_ids=rollout.prompt_token_ids, id=rollout.id)
