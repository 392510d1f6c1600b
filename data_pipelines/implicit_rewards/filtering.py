"""Which samples may become preferences (DICE's released code), and the stage that drops the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from align.errors import AlignError
from align.runs import Task, write_json
from align.trees import Node, write_trees
from data_pipelines.rollouts.samples import read_samples


def filter_samples(task: Task) -> None:
    """Drop unusable responses, and prompts that have too few left.

    Input: `samples`. Settings: those of the recipe's `rounds.filter`. Outputs: `trees.jsonl`; `dropped.json`, how many
    responses were dropped for which reason, and prompts.

    Raises:
        AlignError: nothing is left.
    """
    settings = task.settings
    dropped: Counter[str] = Counter()
    kept, too_few = [], []
    samples = read_samples(task.path("samples"))
    for tree in samples:
        nodes = []
        for node in tree.nodes:
            reason = reason_to_drop(node, len(tree.prompt_token_ids or ()), settings)
            dropped[reason or "kept"] += 1
            if reason is None:
                nodes.append(node)
        if len(nodes) >= settings["min_responses"]:
            kept.append(replace(tree, nodes=tuple(nodes)))
        else:
            too_few.append({"id": tree.id, "valid": len(nodes)})
    total = sum(dropped.values())
    write_json(task.folder / "dropped.json", {"responses": total, **dropped, "prompts": len(samples), "prompts_with_too_few": too_few})
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common() if reason != "kept")
        raise AlignError(
            f"none of {len(samples)} prompts has {settings['min_responses']} valid responses ({total} sampled: {why or 'all valid'}): "
            "raise rollouts.max_new_tokens or rollouts.samples, or lower rounds.filter.min_responses"
        )
    write_trees(kept, task.folder / "trees.jsonl")


def reason_to_drop(node: Node, prompt_tokens: int, settings: Mapping[str, Any]) -> str | None:
    """Why a response cannot be used; None if it can."""
    characters = len(node.text)
    if settings["drop_truncated"] and node.metadata.get("finish_reason") == "length":
        return "ended for length"
    if characters < settings["min_characters"]:
        return "too short"
    if characters > settings["max_characters"]:
        return "too many characters"
    if prompt_tokens + len(node.token_ids or ()) > settings["max_tokens"]:
        return "too many tokens"
    return None
