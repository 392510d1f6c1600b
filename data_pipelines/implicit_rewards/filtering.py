"""Which samples may become preferences (DICE's released code), and the stage that drops the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from align.errors import AlignError
from align.runs import Task, write_json
from align.trees import Node, PreferenceTree, write_trees
from data_pipelines.implicit_rewards.responses import characters
from data_pipelines.implicit_rewards.settings import FilterSettings
from data_pipelines.rollouts.samples import read_samples


def filter_samples(task: Task) -> None:
    """Drop unusable responses, and prompts that have too few left.

    Inputs: `samples`; where the data set's own responses are candidates too, `data` and `model`, whose tokenizer they need.
    Settings: `FilterSettings`. Outputs: `trees.jsonl`; `dropped.json`, how many samples were dropped for which reason, and prompts.

    Raises:
        AlignError: nothing is left.
    """
    settings = task.read(FilterSettings)
    samples = read_samples(task.path("samples"))
    added = {}
    if "data" in task.inputs:
        from data_pipelines.implicit_rewards.data_responses import responses_by_prompt  # the tokenizer's libraries take seconds

        added = responses_by_prompt(task, settings, samples)
    dropped: Counter[str] = Counter()
    kept, too_few = [], []
    for tree in samples:
        nodes = [*_usable(tree, settings, dropped), *added.get(str(tree.id), [])]
        if len(nodes) >= settings.min_responses:
            kept.append(replace(tree, nodes=tuple(nodes)))
        else:
            too_few.append({"id": tree.id, "valid": len(nodes)})
    counts = {"responses": sum(dropped.values()), **dropped, "prompts": len(samples), "prompts_with_too_few": too_few}
    write_json(task.folder / "dropped.json", counts | ({"of_the_data": sum(map(len, added.values()))} if added else {}))
    if not kept:
        raise AlignError(_nothing_left(len(samples), settings.min_responses, dropped))
    write_trees(kept, task.folder / "trees.jsonl")


def _usable(tree: PreferenceTree, settings: FilterSettings, dropped: Counter[str]) -> Sequence[Node]:
    """The samples that may be used; `dropped` counts them, and the others by reason."""
    reasons = [reason_to_drop(node, len(tree.prompt_token_ids or ()), settings) for node in tree.nodes]
    dropped.update(reason or "kept" for reason in reasons)
    return [node for node, reason in zip(tree.nodes, reasons, strict=True) if reason is None]


def _nothing_left(prompts: int, wanted: int, dropped: Counter[str]) -> str:
    why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common() if reason != "kept")
    return (
        f"none of {prompts} prompts has {wanted} valid responses ({sum(dropped.values())} sampled: {why or 'all valid'}): "
        "raise rollouts.max_new_tokens or rollouts.samples, or lower rounds.filter.min_responses"
    )


def reason_to_drop(node: Node, prompt_tokens: int, settings: FilterSettings) -> str | None:
    """Why a response cannot be used; None if it can."""
    if settings.drop_truncated and node.metadata.get("finish_reason") == "length":
        return "ended for length"
    if characters(node) < settings.min_characters:
        return "too short"
    if characters(node) > settings.max_characters:
        return "too many characters"
    if prompt_tokens + len(node.token_ids or ()) > settings.max_tokens:
        return "too many tokens"
    return None
