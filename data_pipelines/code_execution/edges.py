"""From judged programs to preferences: a program that passes over one that fails (arXiv 2410.18585)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any

from align.registry import Registry
from align.trees import Edge, Node, PreferenceTree
from data_pipelines.rollouts.protocol import seed_of


@dataclass(frozen=True)
class EdgeRules:
    """Which pairs the programs of a problem give.

    Attributes:
        policy: which pairs come first, a name of `POLICIES`.
        pairs: so many of a problem at most; None: every pass × fail.
        min_gap: None: a program that passes is better than one that does not. A number: a program is better than another if
            its share of tests passed is higher by at least so much.
        drop_truncated: programs that were cut off for length are no part of a pair.
        seed: of the policy "random".
    """

    policy: str = "random"
    pairs: int | None = None
    min_gap: float | None = None
    drop_truncated: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises AlignError: no such policy."""
        POLICIES.check(self.policy)


Policy = Callable[[Node, Node], float]
"""(better, worse) → how much the pair is wanted. Ties are broken at random."""
POLICIES: Registry[Policy] = Registry("code-pairings", "code.pairing")


@POLICIES.register("random")
def _random(better: Node, worse: Node) -> float:
    """Any pair as much as any other."""
    return 0.0


@POLICIES.register("closest")
def _closest(better: Node, worse: Node) -> float:
    """Similarity of two programs, 0 to 1."""
    return SequenceMatcher(None, better.metadata["program"], worse.metadata["program"], autojunk=False).ratio()


@POLICIES.register("hardest")
def _hardest(better: Node, worse: Node) -> float:
    """Share of tests that the worse program passes."""
    return worse.score or 0.0


@POLICIES.register("focus")
def _focus(better: Node, worse: Node) -> float:
    """Lines that two programs have in common before the first that differs."""
    lines = zip(better.metadata["program"].splitlines(), worse.metadata["program"].splitlines(), strict=False)
    return float(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], lines)))


def with_edges(tree: PreferenceTree, rules: EdgeRules) -> PreferenceTree:
    """The programs of a problem with their preferences; none where all pass or all fail.

    Args:
        tree: leaves with a `score` (share of tests passed) and `verdict`, `program`, `same_as` and `finish_reason` in their metadata.
        rules: see `EdgeRules`.
    """
    usable = _usable(tree, rules)
    rng = random.Random(seed_of(rules.seed, tree.id))
    wanted = POLICIES.find(rules.policy)
    pairs = [
        (-wanted(tree.nodes[i], tree.nodes[j]), rng.random(), i, j)
        for i in usable
        for j in usable
        if _is_better(tree.nodes[i], tree.nodes[j], rules.min_gap)
    ]
    return replace(tree, edges=tuple(Edge(i, j) for *_, i, j in sorted(pairs)[: rules.pairs]))


def _usable(tree: PreferenceTree, rules: EdgeRules) -> list[int]:
    """Indices of the nodes that may stand in a pair; of equal programs the first such, since the first of all may be cut off."""
    found: dict[int, int] = {}
    for index, node in enumerate(tree.nodes):
        same_as = node.metadata["same_as"]
        if not node.metadata["verdict"].startswith("harness_error") and not (
            rules.drop_truncated and node.metadata["finish_reason"] == "length"
        ):
            found.setdefault(index if same_as is None else same_as, index)
    return sorted(found.values())


def _is_better(one: Node, other: Node, min_gap: float | None) -> bool:
    if min_gap is None:
        return one.metadata["verdict"] == "pass" and other.metadata["verdict"] != "pass"
    return (one.score or 0.0) - (other.score or 0.0) >= max(min_gap, 1e-9)


def statistics(trees: Sequence[PreferenceTree], set_aside: int) -> dict[str, Any]:
    """What sampling and execution gave.

    Args:
        trees: with verdicts and edges.
        set_aside: problems without a tree.

    Returns:
        Counts of problems, programs, distinct programs, verdicts, edges, and what the worse programs of edges got.
    """
    nodes = [node for tree in trees for node in tree.nodes]
    verdicts = Counter(node.metadata["verdict"].partition("(")[0] for node in nodes)
    passing = [sum(node.metadata["verdict"] == "pass" for node in tree.nodes) for tree in trees]
    worse = Counter(tree.nodes[edge.rejected].metadata["verdict"].partition("(")[0] for tree in trees for edge in tree.edges)
    return {
        "problems": len(trees), "set_aside": set_aside, "programs": len(nodes),
        "distinct": sum(node.metadata["same_as"] is None for node in nodes),
        "truncated": sum(node.metadata["finish_reason"] == "length" for node in nodes), "verdicts": dict(verdicts.most_common()),
        "pass_rate": verdicts["pass"] / max(1, len(nodes)), "all_pass": sum(p == len(t.nodes) for p, t in zip(passing, trees, strict=True)),
        "all_fail": sum(p == 0 for p in passing), "with_edges": sum(bool(tree.edges) for tree in trees),
        "edges": sum(len(tree.edges) for tree in trees), "rejected_verdicts": dict(worse.most_common()),
    }  # fmt: skip
