"""Preference trees: the data type, its file format, and converters from and to pairs."""

from align.trees.files import (
    Rejected,
    check_rejected,
    locate_trees,
    read_records,
    read_trees,
    tree_of,
    write_jsonl,
    write_pairs,
    write_trees,
)
from align.trees.model import ROOT, Edge, Message, Node, PreferenceTree, Prompt
from align.trees.pairs import as_messages, only_trained, pairs_from_tree, path_text, tree_from_pair, trees_from_pairs
from align.trees.records import from_record, is_tree_record, to_record

__all__ = [
    "ROOT", "Edge", "Message", "Node", "PreferenceTree", "Prompt", "Rejected", "as_messages", "check_rejected", "from_record",
    "is_tree_record", "locate_trees", "only_trained", "pairs_from_tree", "path_text", "read_records", "read_trees", "to_record",
    "tree_from_pair", "tree_of", "trees_from_pairs", "write_jsonl", "write_pairs", "write_trees",
]  # fmt: skip
