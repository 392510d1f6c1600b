"""From search trees to step preferences: kept thoughts over their siblings (CPO), right steps over first wrong ones (Step-DPO)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from align.trees import ROOT, Edge, Node, PreferenceTree
from data_pipelines.rollouts.protocol import seed_of


@dataclass(frozen=True)
class EdgeRules:
    """Which pairs a search gives.

    Attributes:
        paths: "judged" follows the paths that the search kept; "gold" those whose answer is the gold one, whatever the
            judge thought of them. With "first_errors" "judged" is every step that the judge calls right.
        form: "steps" compares thoughts with their siblings; "responses" whole paths with each other, for comparison; "first_errors" the
            first wrong step of a path with its right siblings (Step-DPO).
        right_above: with "first_errors": a step of a higher value is right, any other that has a value is wrong.
        min_gap: a pair's values must differ by so much at least (CPO itself asks for none).
        cap: of a kept thought's pairs, at most so many, drawn at random; None: all.
        weight: "pair", every pair counts once; "thought", every kept thought (or path) counts once and its pairs share its weight, for the
            supervised baseline (`loss_type: [sft]`), in which a thought must not count as often as it has siblings.
        seed: of that draw.
    """

    paths: Literal["judged", "gold"] = "judged"
    form: Literal["steps", "responses", "first_errors"] = "steps"
    right_above: float = 0.0
    min_gap: float | None = None
    cap: int | None = None
    weight: Literal["pair", "thought"] = "pair"
    seed: int = 0


def kept_leaves(tree: PreferenceTree, paths: str = "judged") -> list[int]:
    """The final nodes of the paths that count as good: those kept by the search, or those with a gold answer."""
    return list(tree.metadata["search"]["kept" if paths == "judged" else "gold_nodes"])


def with_step_edges(tree: PreferenceTree, rules: EdgeRules) -> PreferenceTree:
    """The search tree with its step preferences.

    For every kept path and every step: the thought on the path is better than each sibling that is on no kept path, and whose text is
    that of no kept thought of the step (a thought that is kept after one path is not made the worse one after another; CPO's code).

    Args:
        tree: a search tree: scores on its nodes, `search` in its metadata.
        rules: see `EdgeRules`.

    Returns:
        The same nodes, with edges; without any where no kept thought has such a sibling.
    """
    kept = {node for leaf in kept_leaves(tree, rules.paths) for node in tree.path(leaf)}
    siblings: dict[int, list[int]] = {}
    for index, node in enumerate(tree.nodes):
        siblings.setdefault(node.parent, []).append(index)
    said = {(len(tree.path(node)), _same_text(tree.nodes[node])) for node in kept}
    edges: list[Edge] = []
    for chosen in sorted(kept):
        step = len(tree.path(chosen))
        worse = [
            i
            for i in siblings[tree.nodes[chosen].parent]
            if i not in kept and (step, _same_text(tree.nodes[i])) not in said and _far_enough(tree.nodes[chosen], tree.nodes[i], rules)
        ]
        edges += _edges(chosen, _capped(worse, rules, tree.id, chosen), rules)
    return replace(tree, edges=tuple(edges))


def with_first_error_edges(tree: PreferenceTree, rules: EdgeRules) -> PreferenceTree:
    """The search tree with the step preferences of Step-DPO (arXiv 2406.18629): the first wrong step of a path is worse than each right
    step that follows the same steps, all of them right.

    With `paths: gold` only right steps that lead to a gold answer are better ones, as in the paper's data. A step without a value is
    neither right nor wrong, and nothing that follows it is compared.

    Args:
        tree: a search tree: scores on its nodes, `search` in its metadata.
        rules: see `EdgeRules`.

    Returns:
        The same nodes, with edges; without any where no first wrong step has a right sibling.
    """
    leading = None if rules.paths == "judged" else {node for leaf in kept_leaves(tree, rules.paths) for node in tree.path(leaf)}
    right, first_errors = [False] * len(tree.nodes), dict[int, list[int]]()
    for index, node in enumerate(tree.nodes):  # parents stand before their children
        if node.score is None or not (node.parent == ROOT or right[node.parent]):
            continue
        right[index] = node.score > rules.right_above
        if not right[index]:
            first_errors.setdefault(node.parent, []).append(index)
    edges: list[Edge] = []
    for chosen, node in enumerate(tree.nodes):
        if right[chosen] and (leading is None or chosen in leading):
            worse = [i for i in first_errors.get(node.parent, []) if _far_enough(node, tree.nodes[i], rules)]
            edges += _edges(chosen, _capped(worse, rules, tree.id, chosen), rules)
    return replace(tree, edges=tuple(edges))


def with_response_edges(tree: PreferenceTree, rules: EdgeRules) -> PreferenceTree:
    """Whole paths as responses: every kept one is better than every other path that states an answer.

    Returns:
        A tree of depth one whose leaves are the final paths, their thoughts joined.
    """
    kept = kept_leaves(tree, rules.paths)
    finals = [int(node) for node in tree.metadata["search"]["answers"]]
    leaves = tuple(_joined(tree, node) for node in finals)
    edges: list[Edge] = []
    for place, node in enumerate(finals):
        if node in kept:
            others = range(len(finals))
            worse = [i for i in others if finals[i] not in kept and _far_enough(leaves[place], leaves[i], rules)]
            edges += _edges(place, _capped(worse, rules, tree.id, node), rules)
    return replace(tree, nodes=leaves, edges=tuple(edges))


def statistics(trees: Sequence[PreferenceTree], set_aside: Mapping[str, str], spent: Sequence[Mapping[str, int]] = ()) -> dict[str, Any]:
    """What the searches gave.

    Args:
        trees: with edges.
        set_aside: reason by question.
        spent: what the searches of those have cost.

    Returns:
        Counts of questions, thoughts, edges by step, what was dropped and why, tokens per question (of all), and, where the gold
        answers are known, the share of questions that the search answers rightly (of all, those set aside included).
    """
    found = [tree.metadata["search"] for tree in trees]
    dropped: Counter[str] = Counter()
    cost: Counter[str] = Counter()
    for one in found:
        dropped.update(one["dropped"])
    for part in (*(one["cost"] for one in found), *spent):
        cost.update(part)
    steps = Counter(len(tree.path(edge.chosen)) for tree in trees for edge in tree.edges)
    values = Counter(_by_value(tree.nodes[edge.chosen], tree.nodes[edge.rejected]) for tree in trees for edge in tree.edges)
    total = len(trees) + len(set_aside)
    known = [one["right"] for one in found if one["right"] is not None]
    return {
        "questions": total, "set_aside": len(set_aside), "reasons": dict(Counter(set_aside.values())),
        "without_edges": sum(not tree.edges for tree in trees), "thoughts": sum(len(tree.nodes) for tree in trees),
        "edges": sum(len(tree.edges) for tree in trees), "edges_by_step": {str(step): steps[step] for step in sorted(steps)},
        "edges_by_value": {name: values[name] for name in ("higher", "equal", "lower", "unknown")},
        "dropped": dict(dropped), "accuracy": sum(known) / total if known else None,
        **{f"{name}_a_question": count / max(1, total) for name, count in cost.items()},
    }  # fmt: skip


def _by_value(chosen: Node, rejected: Node) -> str:
    """How the value of an edge's better end stands to that of its worse end."""
    if chosen.score is None or rejected.score is None:
        return "unknown"
    return "higher" if chosen.score > rejected.score else "equal" if chosen.score == rejected.score else "lower"


def _edges(chosen: int, worse: Sequence[int], rules: EdgeRules) -> list[Edge]:
    weight = 1.0 / len(worse) if worse and rules.weight == "thought" else 1.0
    return [Edge(chosen, rejected, weight) for rejected in worse]


def _same_text(node: Node) -> str:
    """What is equal for thoughts that a search would merge as siblings."""
    return " ".join(str(node.text).split()).lower()


def _far_enough(chosen: Node, rejected: Node, rules: EdgeRules) -> bool:
    if rejected.score is None:  # nothing readable was said about it: it counts as neither good nor bad
        return False
    return rules.min_gap is None or (chosen.score is not None and chosen.score - rejected.score >= rules.min_gap)


def _capped(worse: list[int], rules: EdgeRules, tree: str | None, chosen: int) -> list[int]:
    if rules.cap is None or len(worse) <= rules.cap:
        return worse
    return sorted(sorted(worse, key=lambda node: seed_of(rules.seed, tree, chosen, node))[: rules.cap])


def _joined(tree: PreferenceTree, leaf: int) -> Node:
    nodes = [tree.nodes[i] for i in tree.path(leaf)]
    ids = None if any(node.token_ids is None for node in nodes) else tuple(token for node in nodes for token in node.token_ids or ())
    return Node("".join(str(node.text) for node in nodes), token_ids=ids, score=nodes[-1].score, complete=False)
