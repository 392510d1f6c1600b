"""Samples as trees: what the sampling stage leaves and later stages read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.runs import read_journal
from align.trees import Node, PreferenceTree, from_record

if TYPE_CHECKING:
    from data_pipelines.rollouts.protocol import Completion, Rollout


def read_samples(folder: Path) -> list[PreferenceTree]:
    """The trees of a sampling stage, ordered by prompt id: the same whatever order they were sampled in."""
    return [from_record(record) for _, record in sorted(read_journal(folder).items())]


def tree_of(rollout: Rollout, prompt: str | list[dict[str, Any]], tokenizer: Any) -> PreferenceTree:
    """The samples of a prompt as a tree of leaves without edges.

    Nodes keep the sampler's token ids, and in their metadata its log-probs (`logps`, where it gave some) and `finish_reason`. A
    response that ended on an end token, whichever of the model's it was, has that token as its last. One that a stop text ended has
    the tokens before it, and is trained with the tokenizer's end token behind them. One that ended for length has no end.
    """
    nodes = tuple(_node(completion, tokenizer) for completion in rollout.completions)
    return PreferenceTree(prompt, nodes, prompt_token_ids=rollout.prompt_token_ids, id=rollout.id)


def _node(completion: Completion, tokenizer: Any) -> Node:
    ids, stopped = completion.token_ids, completion.stop_text is not None
    if stopped:  # a token that holds the text's end and the stop text's beginning stays: it is what was sampled
        while len(ids) > 1 and len(tokenizer.decode(ids[:-1], skip_special_tokens=True)) >= len(completion.text):
            ids = ids[:-1]
    metadata: dict[str, Any] = {"finish_reason": completion.finish_reason}
    if completion.logps:
        metadata["logps"] = [round(logp, 6) for logp in completion.logps[: len(ids)]]
    return Node(completion.text, token_ids=ids, complete=stopped, metadata=metadata)
