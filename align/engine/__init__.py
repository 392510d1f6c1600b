"""The tree engine: token trees → one packed row → one forward → every node's log-prob."""

from align.engine.attention import BACKENDS
from align.engine.layout import Layout, Span, TokenTree, TreeBatch
from align.engine.model import TreeOutput, Wanted, install, node_sums, tree_scores
from align.engine.packing import pack
from align.engine.probe import ProbeResult, choose_backend

__all__ = [
    "BACKENDS", "Layout", "ProbeResult", "Span", "TokenTree", "TreeBatch", "TreeOutput", "Wanted", "choose_backend", "install", "node_sums",
    "pack", "tree_scores",
]  # fmt: skip
