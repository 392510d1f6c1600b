"""Preference trees: the data type, its file format, and converters from and to pairs."""

from align.trees.arrow import merged_dataset, on_disk, scratch_file, tree_dataset
from align.trees.columns import ColumnsError, check_targets
from align.trees.files import (
    Rejected,
    UnusableRecords,
    check_columns,
    check_rejected,
    check_source,
    locate_trees,
    read_records,
    read_trees,
    tree_of,
    write_jsonl,
    write_pairs,
    write_trees,
)
from align.trees.messages import from_arrow, read_messages
from align.trees.model import ROOT, Edge, Message, Node, PreferenceTree, Prompt
from align.trees.pairs import as_messages, merge_prompts, only_trained, pairs_from_tree, path_text, tree_from_pair, trees_from_pairs
from align.trees.records import from_record, from_row, is_tree_record, to_record, to_row

__all__ = [
    "ROOT", "ColumnsError", "Edge", "Message", "Node", "PreferenceTree", "Prompt", "Rejected", "UnusableRecords", "as_messages",
    "check_columns", "check_rejected", "check_source", "check_targets", "from_arrow", "from_record", "from_row", "is_tree_record",
    "locate_trees", "merge_prompts", "merged_dataset", "on_disk", "only_trained", "pairs_from_tree", "path_text", "read_messages",
    "read_records", "read_trees", "scratch_file", "to_record", "to_row", "tree_dataset", "tree_from_pair", "tree_of", "trees_from_pairs",
    "write_jsonl", "write_pairs", "write_trees",
]  # fmt: skip
