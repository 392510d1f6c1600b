"""The pairing stage: scores → shaped rewards → edges → replay mixture, with the round's statistics and exports."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from statistics import mean
from typing import Any

from align.errors import AlignError
from align.rewards.combination import combined
from align.rewards.length import LengthFit, fit_alpha, mean_difference, shaped
from align.rewards.pairing import pairs_of
from align.runs import Task, read_journal, write_json
from align.trees import Edge, Node, PreferenceTree, Rejected, check_rejected, locate_trees, write_jsonl, write_pairs, write_trees
from data_pipelines.implicit_rewards.agreement import agreement
from data_pipelines.implicit_rewards.replay import mix
from data_pipelines.implicit_rewards.responses import characters, length
from data_pipelines.implicit_rewards.settings import OfflineSettings, PairSettings
from data_pipelines.rollouts.prompts import asked_as
from data_pipelines.rollouts.protocol import seed_of
from data_pipelines.rollouts.samples import read_samples

logger = logging.getLogger(__name__)

Scores = Mapping[str, Sequence[Mapping[str, Any]]]  # by scorer, of each response: numbers, or None as a reward where it has none


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

    Inputs: `trees`, `scores`; where used, `offline` (a preference set), `exploration` (greedy responses of the policy), `baseline`
    (scores of responses of the reference). Settings: `PairSettings`. Outputs: `pairs.jsonl`, trees to be trained on;
    `flat.jsonl`, the same as prompt/chosen/rejected for any trainer; `scored.jsonl`, every response with its scores;
    `without-reward.jsonl`, the responses that a scorer has no reward for, if there are any; `statistics.json`.

    Raises:
        AlignError: no prompt gives a pair.
    """
    settings = task.read(PairSettings)
    scored, left_out = _scored(task, settings)
    rewards, lengths = [s.rewards for s in scored], [s.lengths for s in scored]
    fit = _fit(settings, rewards, lengths)
    ranked = (_with_edges(s.tree, shaped(s.rewards, s.lengths, fit.alpha), settings) for s in scored)
    generated = [tree for tree in ranked if tree is not None]
    if not generated:
        raise AlignError(f"no pair can be made of {len(scored)} prompts: in each, all responses have the same reward")
    offline = read_offline(task, "offline", settings) if "offline" in task.inputs else []
    if any(tree.conversational for tree in generated):
        offline = [asked_alike(tree, True, settings.system) for tree in offline]
    seed = seed_of(settings.seed, settings.round, "replay")
    trained = mix([_only_used(tree) for tree in generated], offline, settings.replay, seed)
    if "exploration" in task.inputs:
        trained = _with_exploration(trained, read_samples(task.path("exploration")))
    write_trees(trained, task.folder / "pairs.jsonl")
    write_pairs(trained, task.folder / "flat.jsonl")
    write_trees(_export(scored, fit), task.folder / "scored.jsonl")
    write_json(task.folder / "statistics.json", _statistics(scored, generated, trained, fit, settings) | left_out)


def _scored(task: Task, settings: PairSettings) -> tuple[list[Scored], dict[str, int]]:
    """The prompts with the responses that every scorer has a reward for, and how many are left out: the other responses, which are kept
    aside, and the prompts with fewer than two that have one.

    Raises:
        AlignError: no prompt has two responses with rewards.
    """
    journal = read_journal(task.path("scores"))
    baseline = read_journal(task.path("baseline")) if "baseline" in task.inputs else {}
    scored, without, too_few = [], list[dict[str, Any]](), 0
    for _, tree in locate_trees(task.path("trees")):
        assert isinstance(tree, PreferenceTree)
        assert tree.id is not None
        scores, reference = journal[tree.id], _with_reward(baseline.get(tree.id, {}))
        has_one = [all(entries[k]["reward"] is not None for entries in scores.values()) for k in range(len(tree.nodes))]
        if not all(has_one):
            without += [{"prompt": tree.id, "response": n.text, **_at(scores, k)} for k, n in enumerate(tree.nodes) if not has_one[k]]
        if (not all(has_one) and sum(has_one) < 2) or not all(reference.values()):
            too_few += 1
            continue
        kept = replace(tree, nodes=tuple(compress(tree.nodes, has_one)))
        scores = {name: list(compress(entries, has_one)) for name, entries in scores.items()}
        rewards = _rewards(tree.id, scores, reference, settings)
        scored.append(Scored(kept, scores, rewards, [length(node, settings.length_unit) for node in kept.nodes]))
    left_out = {"responses_without_reward": len(without), "prompts_without_rewards": too_few}
    if without:
        _keep_aside(without, task)
    if not scored:
        raise AlignError(f"none of {too_few} prompts has two responses with a reward: {len(without)} responses have none")
    return scored, left_out


def _with_reward(scores: Scores) -> Scores:
    """By scorer, what it says of the responses that it has a reward for."""
    return {name: [entry for entry in entries if entry["reward"] is not None] for name, entries in scores.items()}


def _keep_aside(without: list[dict[str, Any]], task: Task) -> None:
    """Leave in `without-reward.jsonl` the responses that cannot be ranked, and say so."""
    logger.warning("%s: %d response(s) have no reward and are left out; they are kept in without-reward.jsonl", task.name, len(without))
    write_jsonl(without, task.folder / "without-reward.jsonl")


def _at(scores: Scores, place: int) -> dict[str, dict[str, Any]]:
    """By scorer, what it says of one response."""
    return {name: dict(entries[place]) for name, entries in scores.items()}


def _rewards(prompt: str, scores: Scores, reference: Scores, settings: PairSettings) -> list[float]:
    """One number a response: the scorer's, or of several, β r̂ for the implicit one, their combination against the reference's."""
    if len(scores) == 1:
        (only,) = scores.values()
        return [entry["reward"] for entry in only]
    if not reference:
        raise AlignError(f"prompt {prompt} has no response of the reference, against which several scorers are put on one scale")
    weights = {choice.name: choice.weight for choice in settings.scorers}
    ours, theirs = (_by_scorer(given, settings.beta) for given in (scores, reference))
    return combined(ours, theirs, weights, settings.quantile)


def _by_scorer(scores: Scores, beta: float) -> dict[str, list[float]]:
    """The rewards by scorer, all in units of reward: DPO's implicit reward is β times the log-ratio that its scorer gives."""
    return {name: [(beta if name == "implicit" else 1.0) * entry["reward"] for entry in entries] for name, entries in scores.items()}


def _fit(settings: PairSettings, rewards: list[list[float]], lengths: list[list[int]]) -> LengthFit:
    alpha, rule = settings.length_alpha, settings.pairing
    if alpha == "fit":
        return fit_alpha(rewards, lengths, rule)
    return LengthFit(float(alpha), mean_difference(rewards, lengths, float(alpha), rule), mean_difference(rewards, lengths, 0.0, rule))


def _with_edges(tree: PreferenceTree, rewards: list[float], settings: PairSettings) -> PreferenceTree | None:
    """The tree with its pairs as edges; None where no response is better than another. Two equal responses are no pair."""
    edges = [Edge(c, r) for c, r in pairs_of(rewards, settings.pairing) if not _equal(tree.nodes[c], tree.nodes[r])]
    if settings.pairs is not None and len(edges) > settings.pairs:
        drawn = random.Random(seed_of(settings.seed, settings.round, tree.id)).sample(range(len(edges)), settings.pairs)
        edges = [edges[place] for place in sorted(drawn)]
    nodes = tuple(replace(node, score=reward) for node, reward in zip(tree.nodes, rewards, strict=True))
    return replace(tree, nodes=nodes, edges=tuple(edges)) if edges else None


def _equal(one: Node, other: Node) -> bool:
    """Whether two responses say the same, but for white space around it."""
    if isinstance(one.text, str) and isinstance(other.text, str):
        return one.text.strip() == other.text.strip()
    return one.text == other.text


def _only_used(tree: PreferenceTree) -> PreferenceTree:
    """The tree with the responses that stand in a pair, and without the sampler's token log-probs."""
    used = sorted({end for edge in tree.edges for end in (edge.chosen, edge.rejected)})
    place = {old: new for new, old in enumerate(used)}
    edges = tuple(replace(edge, chosen=place[edge.chosen], rejected=place[edge.rejected]) for edge in tree.edges)
    return replace(tree, nodes=tuple(replace(tree.nodes[i], metadata={}) for i in used), edges=edges)


def _with_exploration(trees: list[PreferenceTree], samples: list[PreferenceTree]) -> list[PreferenceTree]:
    """Give every generated tree the policy's greedy response y_s as a leaf without an edge (SELM)."""
    extra = {sample.id: sample.nodes[0] for sample in samples}
    return [replace(t, nodes=(*t.nodes, replace(extra[t.id], metadata={}))) if t.id in extra else t for t in trees]


def asked_alike(tree: PreferenceTree, chat: bool, system: str | None) -> PreferenceTree:
    """An offline preference asked as the policy is, see `asked_as`; one that has the tokens of its prompt stays as it is."""
    return tree if tree.prompt_token_ids is not None else replace(tree, prompt=asked_as(tree.prompt, chat, system))


def read_offline(task: Task, name: str, settings: OfflineSettings) -> list[PreferenceTree]:
    """The trees of a preference set, the input `name`; records that cannot be read are kept in `unreadable.jsonl`.

    Raises:
        AlignError: too large a share of them cannot be read.
    """
    located = [item for _, item in locate_trees(task.inputs[name], settings.offline_split, settings.offline_columns)]
    rejected = [item for item in located if isinstance(item, Rejected)]
    trees = [item for item in located if isinstance(item, PreferenceTree)]
    check_rejected(len(trees), rejected, task.folder / "unreadable.jsonl", settings.max_rejected_share)
    return [replace(tree, id=tree.id or "offline") for tree in trees[: settings.offline_limit]]


def _export(scored: list[Scored], fit: LengthFit) -> list[PreferenceTree]:
    """Every response with all its scores, in the order of sampling."""
    found = []
    for s in scored:
        nodes = []
        for k, (node, reward) in enumerate(zip(s.tree.nodes, shaped(s.rewards, s.lengths, fit.alpha), strict=True)):
            nodes.append(replace(node, score=reward, metadata={"reward": s.rewards[k], "length": s.lengths[k], **_at(s.scores, k)}))
        found.append(replace(s.tree, nodes=tuple(nodes)))
    return found


def _statistics(
    scored: list[Scored], generated: list[PreferenceTree], trained: list[PreferenceTree], fit: LengthFit, settings: PairSettings
) -> dict[str, Any]:
    """What a round's report shows: lengths and scores of all samples and of both ends of the pairs."""
    prompts = {tree.id for tree in generated}
    used = sum(tree.id in prompts for tree in trained)
    nodes = [node for s in scored for node in s.tree.nodes]
    ends = {
        name: [tree.nodes[getattr(edge, name)] for tree in generated for edge in tree.edges] for name in ("chosen", "rejected")
    }  # fmt: skip
    by_scorer = {name: [entry["reward"] for s in scored for entry in s.scores[name]] for name in (scored[0].scores if scored else ())}
    gaps = [
        length(c, settings.length_unit) - length(r, settings.length_unit) for c, r in zip(ends["chosen"], ends["rejected"], strict=True)
    ]
    found: dict[str, Any] = {
        "prompts": len(scored), "responses": len(nodes), "pairs": sum(len(tree.edges) for tree in generated),
        "prompts_without_pair": len(scored) - len(generated), "generated": used, "replayed": len(trained) - used,
        "alpha": fit.alpha, "length_unit": settings.length_unit, "mean_length_difference": mean(gaps),
        "mean_length_difference_unshaped": fit.unshaped_difference,
        "characters": mean(characters(node) for node in nodes), "tokens": mean(len(node.token_ids or ()) for node in nodes),
        "rewards": {name: mean(values) for name, values in by_scorer.items()},
        "agreement": agreement([s.scores["implicit"] for s in scored if "implicit" in s.scores]),
    }  # fmt: skip
    for name, picked in ends.items():
        found[name] = {
            "characters": mean(characters(node) for node in picked), "tokens": mean(len(node.token_ids or ()) for node in picked),
            "shaped_reward": mean(node.score or 0.0 for node in picked),
        }  # fmt: skip
    return found
