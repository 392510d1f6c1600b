"""The pairing stage: scores → shaped rewards → edges → replay mixture, with the round's statistics and exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from align.errors import AlignError
from align.rewards.combination import combined
from align.rewards.length import LengthFit, fit_alpha, mean_difference, shaped
from align.rewards.pairing import pairs_of
from align.runs import Task, read_journal, write_json
from align.trees import Edge, Node, PreferenceTree, Rejected, check_rejected, locate_trees, write_pairs, write_trees
from data_pipelines.implicit_rewards.agreement import agreement
from data_pipelines.implicit_rewards.replay import mix
from data_pipelines.rollouts.samples import read_samples

Scores = Mapping[str, Sequence[Mapping[str, float]]]  # by scorer, of each response


@dataclass(frozen=True)
class Scored:
    """A prompt's responses with what they are ranked by.

    Attributes:
        tree: the responses.
        scores: as the scorers gave them.
        rewards: one number a response, before shaping.
        lengths: in the unit of the shaping.
    """

    tree: PreferenceTree
    scores: Scores
    rewards: list[float]
    lengths: list[int]


def pair(task: Task) -> None:
    """Make the round's preferences.

    Inputs: `trees`, `scores`; `offline` (a preference set), `exploration` (samples of the reference) where used. Settings:
    `scorers`, `quantile`, `length_unit`, `length_alpha`, `pairing`, `replay`, `offline_split`, `offline_columns`, `max_rejected_share`,
    `seed`.
    Outputs: `pairs.jsonl`, trees to be trained on; `flat.jsonl`, the same as prompt/chosen/rejected for any trainer;
    `scored.jsonl`, every response with its scores; `statistics.json`.

    Raises:
        AlignError: no prompt gives a pair.
    """
    settings = task.settings
    scored = _scored(task)
    rewards, lengths = [s.rewards for s in scored], [s.lengths for s in scored]
    fit = _fit(settings, rewards, lengths)
    generated = [
        tree for s in scored if (tree := _with_edges(s.tree, shaped(s.rewards, s.lengths, fit.alpha), settings["pairing"])) is not None
    ]
    if not generated:
        raise AlignError(f"no pair can be made of {len(scored)} prompts: in each, all responses have the same reward")
    offline = _offline(task) if "offline" in task.inputs else []
    trained = mix([_only_used(tree) for tree in generated], offline, settings["replay"], settings["seed"])
    if "exploration" in task.inputs:
        trained = _with_exploration(trained, read_samples(task.path("exploration")))
    write_trees(trained, task.folder / "pairs.jsonl")
    write_pairs(trained, task.folder / "flat.jsonl")
    write_trees(_export(scored, fit), task.folder / "scored.jsonl")
    write_json(task.folder / "statistics.json", _statistics(scored, generated, len(trained) - len(generated), fit, settings))


def _scored(task: Task) -> list[Scored]:
    journal = read_journal(task.path("scores"))
    weights = {choice["name"]: choice["weight"] for choice in task.settings["scorers"]}
    found = []
    for _, tree in locate_trees(task.path("trees")):
        assert isinstance(tree, PreferenceTree)
        assert tree.id is not None
        scores: Scores = journal[tree.id]
        by_scorer = {name: [entry["reward"] for entry in entries] for name, entries in scores.items()}
        rewards = combined(by_scorer, by_scorer, weights, task.settings["quantile"])
        found.append(Scored(tree, scores, rewards, [_length(node, task.settings["length_unit"]) for node in tree.nodes]))
    return found


def _length(node: Node, unit: str) -> int:
    return len(node.text) if unit == "characters" else len(node.token_ids or ())


def _fit(settings: Mapping[str, Any], rewards: list[list[float]], lengths: list[list[int]]) -> LengthFit:
    alpha, rule = settings["length_alpha"], settings["pairing"]
    if alpha == "fit":
        return fit_alpha(rewards, lengths, rule)
    return LengthFit(float(alpha), mean_difference(rewards, lengths, float(alpha), rule), mean_difference(rewards, lengths, 0.0, rule))


def _with_edges(tree: PreferenceTree, rewards: list[float], rule: str) -> PreferenceTree | None:
    """The tree with its pairs as edges; None where no response is better than another. A pair of equal texts is none."""
    edges = [Edge(c, r) for c, r in pairs_of(rewards, rule) if tree.nodes[c].token_ids != tree.nodes[r].token_ids]
    nodes = tuple(replace(node, score=reward) for node, reward in zip(tree.nodes, rewards, strict=True))
    return replace(tree, nodes=nodes, edges=tuple(edges)) if edges else None


def _only_used(tree: PreferenceTree) -> PreferenceTree:
    """The tree with the responses that stand in a pair, and without the sampler's token log-probs."""
    used = sorted({end for edge in tree.edges for end in (edge.chosen, edge.rejected)})
    place = {old: new for new, old in enumerate(used)}
    edges = tuple(replace(edge, chosen=place[edge.chosen], rejected=place[edge.rejected]) for edge in tree.edges)
    return replace(tree, nodes=tuple(replace(tree.nodes[i], metadata={}) for i in used), edges=edges)


def _with_exploration(trees: list[PreferenceTree], samples: list[PreferenceTree]) -> list[PreferenceTree]:
    """Give every generated tree the reference's response as a leaf without an edge (SELM)."""
    extra = {sample.id: sample.nodes[0] for sample in samples}
    return [replace(t, nodes=(*t.nodes, replace(extra[t.id], metadata={}))) if t.id in extra else t for t in trees]


def _offline(task: Task) -> list[PreferenceTree]:
    offline = locate_trees(task.inputs["offline"], task.settings["offline_split"], task.settings.get("offline_columns"))
    located = [item for _, item in offline]
    rejected = [item for item in located if isinstance(item, Rejected)]
    trees = [item for item in located if isinstance(item, PreferenceTree)]
    check_rejected(len(trees), rejected, task.folder / "unreadable.jsonl", task.settings["max_rejected_share"])
    return [replace(tree, id=tree.id or "offline") for tree in trees]


def _export(scored: list[Scored], fit: LengthFit) -> list[PreferenceTree]:
    """Every response with all its scores, in the order of sampling."""
    found = []
    for s in scored:
        nodes = []
        for k, (node, reward) in enumerate(zip(s.tree.nodes, shaped(s.rewards, s.lengths, fit.alpha), strict=True)):
            details = {name: dict(entries[k]) for name, entries in s.scores.items()}
            nodes.append(replace(node, score=reward, metadata={"reward": s.rewards[k], "length": s.lengths[k], **details}))
        found.append(replace(s.tree, nodes=tuple(nodes)))
    return found


def _statistics(
    scored: list[Scored], generated: list[PreferenceTree], replayed: int, fit: LengthFit, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a round's report shows: lengths and scores of all samples and of both ends of the pairs."""
    nodes = [node for s in scored for node in s.tree.nodes]
    ends = {
        name: [tree.nodes[getattr(edge, name)] for tree in generated for edge in tree.edges] for name in ("chosen", "rejected")
    }  # fmt: skip
    by_scorer = {name: [entry["reward"] for s in scored for entry in s.scores[name]] for name in (scored[0].scores if scored else ())}
    found: dict[str, Any] = {
        "prompts": len(scored), "responses": len(nodes), "pairs": sum(len(tree.edges) for tree in generated),
        "prompts_without_pair": len(scored) - len(generated), "replayed": replayed,
        "alpha": fit.alpha, "length_unit": settings["length_unit"], "mean_length_difference": fit.mean_difference,
        "mean_length_difference_unshaped": fit.unshaped_difference,
        "characters": mean(len(node.text) for node in nodes), "tokens": mean(len(node.token_ids or ()) for node in nodes),
        "rewards": {name: mean(values) for name, values in by_scorer.items()},
        "agreement": agreement([s.scores["implicit"] for s in scored if "implicit" in s.scores]),
    }  # fmt: skip
    for name, picked in ends.items():
        found[name] = {
            "characters": mean(len(node.text) for node in picked), "tokens": mean(len(node.token_ids or ()) for node in picked),
            "shaped_reward": mean(node.score or 0.0 for node in picked),
        }  # fmt: skip
    return found
