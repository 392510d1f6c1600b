"""Preference data sets → tokenized data sets: what cannot be used is counted, kept aside and never dropped in silence."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from align.engine.tokenize import tokenize_tree, truncate
from align.errors import AlignError, nearest
from align.trainers.collator import PAIR_COLUMNS, TREE_COLUMNS, record_of, token_tree
from align.trainers.config import PreferenceConfig
from align.trees import PreferenceTree, Rejected, check_rejected, from_record, is_tree_record, to_record

logger = logging.getLogger(__name__)
REASON = "_unusable"


def as_dataset(data: Any) -> Any:
    """A list of `PreferenceTree` as a data set, also in a dictionary of several; anything else unchanged."""
    if isinstance(data, dict):
        return type(data)({name: as_dataset(one) for name, one in data.items()})
    if isinstance(data, list) and data and isinstance(data[0], PreferenceTree):
        return Dataset.from_list([to_record(tree) for tree in data])
    return data


def check_columns(example: Mapping[str, Any], name: str) -> None:
    """See that the first record is a pair or a tree.

    Raises:
        AlignError: a column is missing; names the nearest one there is.
    """
    if is_tree_record(example) or set(PAIR_COLUMNS) <= set(example) or set(TREE_COLUMNS) <= set(example):
        return
    for column in ("chosen", "rejected"):
        if column not in example:
            raise AlignError(
                f"The {name} data set has no column '{column}': {nearest(column, example)} A tree has 'prompt', 'nodes' and 'edges'."
            )


def tokenize_trees(dataset: Any, tokenizer: PreTrainedTokenizerBase, num_proc: int | None) -> Any:
    """Tokenize a data set of tree records; a tree that cannot be used gets its reason in the column `_unusable`."""

    def convert(example: dict[str, Any]) -> dict[str, Any]:
        try:
            return {**record_of(tokenize_tree(from_record(example), tokenizer)), REASON: ""}
        except AlignError as error:
            return {**{column: [] for column in TREE_COLUMNS}, REASON: str(error)}

    if isinstance(dataset, IterableDataset):
        return dataset.map(convert)
    return dataset.map(convert, num_proc=num_proc, desc="Tokenizing trees")


def drop_unusable(dataset: Any, args: PreferenceConfig, name: str) -> Any:
    """Set aside the records that are empty after truncation, without an edge, or could not be tokenized.

    They are written to `rejected.jsonl` in the output folder with their reasons, and counted in a warning.

    Raises:
        AlignError: their share is above `max_rejected_share`, or nothing is left.
    """
    reasons = _reason_of(args)
    if isinstance(dataset, IterableDataset):
        return dataset.filter(lambda example: reasons(example) is None)
    rejected, kept = [], []
    for number, example in enumerate(dataset):
        reason = reasons(example)
        if reason is None:
            kept.append(number)
        else:
            record = {key: value for key, value in example.items() if key not in (*PAIR_COLUMNS, *TREE_COLUMNS, REASON)}
            named = f" ({example['id']})" if example.get("id") else ""
            rejected.append(Rejected(f"{name} data set, record {number}{named}", reason, record))
    if not rejected:
        return dataset
    aside = Path(args.output_dir or ".") / f"rejected-{name}.jsonl"
    main = args.process_index == 0
    check_rejected(len(kept), rejected, aside if main else None, args.max_rejected_share)
    if not kept:
        raise AlignError(f"{rejected[0].where}: {rejected[0].reason} (no record is left; all are kept in {aside})")
    if main:
        logger.warning(
            "%d of %d records cannot be used and are kept in %s; the first: %s", len(rejected), len(dataset), aside, rejected[0].reason
        )
    return dataset.select(kept)


def _reason_of(args: PreferenceConfig) -> Callable[[Mapping[str, Any]], str | None]:
    def reason(example: Mapping[str, Any]) -> str | None:
        if example.get(REASON):
            return str(example[REASON])
        tree = token_tree(example)
        for name, run in zip(("chosen", "rejected"), tree.tokens[1:], strict=False):
            if "prompt_ids" in example and not run:
                return f"`{name}` is empty"
        try:
            truncate(tree, args.max_length, args.truncation_mode)
        except AlignError as error:
            return str(error)
        return None

    return reason


def without_truncation(args: PreferenceConfig) -> PreferenceConfig:
    """The same settings for trl's preparation of pairs, which would drop over-long prompts without a word."""
    plain = copy.copy(args)
    plain.max_length = None
    return plain
