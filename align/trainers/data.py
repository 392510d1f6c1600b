"""Preference data sets → tokenized data sets: what cannot be used is counted, kept aside and never dropped in silence."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, List, Value
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerBase, TrainerCallback

from align.engine import TokenTree
from align.engine.tokenize import equal_edges, tokenize_tree, truncate, without_edges
from align.errors import AlignError
from align.trainers.collator import PAIR_COLUMNS, TREE_COLUMNS, pair_record_of, record_of
from align.trainers.config import PreferenceConfig
from align.trees import PreferenceTree, Rejected, check_columns, check_rejected, from_arrow, from_row, is_tree_record, tree_dataset, tree_of
from align.trees.files import LOOKED_AT, record_dataset

logger = logging.getLogger(__name__)
REASON = "_unusable"
EQUAL = "_equal_edges"
CHECKED_FROM = 100  # records of a stream: from then on its share of unusable ones is held against the limit
_IDS, _NUMBERS = List(Value("int64")), List(Value("float64"))
_TYPES = {
    **dict.fromkeys(PAIR_COLUMNS, _IDS), "node_ids": List(_IDS), "node_parents": _IDS, "edges": List(_IDS),
    "edge_weights": _NUMBERS, "edge_margins": _NUMBERS, REASON: Value("string"), EQUAL: Value("int64"),
}  # fmt: skip
_WEIGHTED_PAIR_COLUMNS = (*PAIR_COLUMNS, "edge_weights", "edge_margins")


def as_dataset(data: Any) -> Any:
    """A list of `PreferenceTree` or of records as a data set, also in a dictionary of several; anything else unchanged.

    Raises:
        AlignError: there is nothing in it, or it holds records that do not fit into one table.
    """
    if isinstance(data, dict):
        return type(data)({name: as_dataset(one) for name, one in data.items()})
    if isinstance(data, (list, tuple, Dataset, IterableDataset)) and next(iter(data), None) is None:
        raise AlignError("the data set is empty")
    if isinstance(data, (list, tuple)):
        trees = any(isinstance(one, PreferenceTree) for one in data)
        return tree_dataset(one if isinstance(one, PreferenceTree) else tree_of(one) for one in data) if trees else record_dataset(data)
    return data


@dataclass
class Preparation:
    """How a record becomes tokens.

    Attributes:
        tokenizer: of the policy.
        args: the trainer's; `columns`, `max_length`, `truncation_mode`, `max_rejected_share` and `output_dir` are read.
        name: of the data set, in messages and file names.
        reads_margins: whether a loss reads the edges' margins.
        counted: what has been read of a stream, once it is prepared.
    """

    tokenizer: PreTrainedTokenizerBase
    args: PreferenceConfig
    name: str
    reads_margins: bool = True
    counted: CountedConversion | None = None

    def __call__(self, dataset: Any) -> Any:
        """The data set with the columns of pairs (`PAIR_COLUMNS`) or trees (`TREE_COLUMNS`) and without the records that cannot be used.

        Those are written to `rejected-<name>.jsonl` in the output folder with their reasons, and counted in a warning.
        A data set that is tokenized already stays as it is.

        Raises:
            AlignError: the columns are those of no form that is read (see `align.trees.forms`), too large a share of the records
                cannot be used, none can, or an edge has a margin that no loss reads.
        """
        if isinstance(dataset, IterableDataset) or dataset.format["type"] != "custom":
            dataset = dataset.with_format(None)  # records as Python's objects, not as arrays
        first = next(iter(dataset), None)
        if first is None:
            raise AlignError(f"the {self.name} data set is empty")
        if set(PAIR_COLUMNS) <= set(first) or set(TREE_COLUMNS) <= set(first):
            return dataset
        check_columns((from_arrow(row) for row in itertools.islice(dataset, LOOKED_AT)), self.args.columns, f"the {self.name} data set")
        convert = Conversion(self.tokenizer, self.args.columns, self.args.max_length, self.args.truncation_mode, "nodes" in first)
        if isinstance(dataset, IterableDataset):
            return self._stream(dataset, convert)
        with self.args.main_process_first(desc=f"tokenizing the {self.name} data set"):
            tokenized = dataset.map(
                convert, num_proc=self.args.dataset_num_proc, desc=f"Tokenizing {self.name} dataset", features=convert.features(dataset),
            )  # fmt: skip
        self._check_margins(tokenized)
        return self._usable(dataset, tokenized).remove_columns([REASON, EQUAL])

    def _check_margins(self, tokenized: Dataset) -> None:
        if not self.reads_margins and any(margin for margins in tokenized["edge_margins"] for margin in margins):
            raise AlignError(
                f"the {self.name} data set: an edge has a `margin`, which none of the losses in `loss_type` reads: use sigmoid, flex or "
                "hinge, or leave it out (`columns: {margin: null}`)"
            )

    def _usable(self, dataset: Dataset, tokenized: Dataset) -> Dataset:
        reasons = list(tokenized[REASON])
        kept = [number for number, reason in enumerate(reasons) if not reason]
        left_out = sum(tokenized[EQUAL])
        if left_out and self._is_main:
            logger.warning("%d edges of the %s data set join two equal responses and are left out", left_out, self.name)
        if len(kept) == len(reasons):
            return tokenized
        rejected = [Rejected(self._where(number, dataset[number]), reason, _as_found(dataset[number]))
                    for number, reason in enumerate(reasons) if reason]  # fmt: skip
        check_rejected(len(kept), rejected, self._aside if self._is_main else None, self.args.max_rejected_share)
        if not kept:
            raise AlignError(f"{rejected[0].where}: {rejected[0].reason} (no record is left; all are kept in {self._aside})")
        if self._is_main:
            logger.warning(
                "%d of %d records cannot be used and are kept in %s; the first: %s",
                len(rejected), len(reasons), self._aside, rejected[0].reason,
            )  # fmt: skip
        return tokenized.select(kept)

    def _where(self, number: int, record: Mapping[str, Any]) -> str:
        named = f" ({record['id']})" if record.get("id") else ""
        return f"{self.name} data set, record {number}{named}"

    @property
    def _aside(self) -> Path:
        return Path(self.args.output_dir or ".") / f"rejected-{self.name}.jsonl"

    @property
    def _is_main(self) -> bool:
        return bool(self.args.process_index == 0)

    def _stream(self, dataset: IterableDataset, convert: Conversion) -> IterableDataset:
        self.counted = CountedConversion(convert, self.name, self._aside if self._is_main else None, self.args.max_rejected_share)
        converted = dataset.map(self.counted, with_indices=True, features=convert.features(dataset))
        usable = converted.filter(_is_usable).remove_columns([REASON, EQUAL])
        if next(iter(usable), None) is None:
            raise AlignError(f"{self.counted.first} ({self.counted.told()}; no record is left)")
        return usable


def _as_found(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as its data set has it; a tree's row as one writes a tree."""
    try:
        return from_row(record) if is_tree_record(record) else dict(record)
    except AlignError:
        return dict(record)


def _is_usable(example: Mapping[str, Any]) -> bool:
    return not example[REASON]


@dataclass
class Conversion:
    """A record, pair or tree, as token columns; one that cannot be used gets its reason in the column `_unusable`."""

    tokenizer: PreTrainedTokenizerBase
    columns: Mapping[str, str | None] | None
    max_length: int | None
    truncation_mode: str
    trees: bool

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        try:
            tree, equal = self.token_tree(from_arrow(record))
        except AlignError as error:
            return {**{name: [] for name in self.names}, REASON: str(error), EQUAL: 0}
        return {**(record_of(tree) if self.trees else pair_record_of(tree)), REASON: "", EQUAL: equal}

    def token_tree(self, record: Mapping[str, Any]) -> tuple[TokenTree, int]:
        """The record's tokens, and how many of its edges were left out because both ends are the same tokens.

        Raises:
            AlignError: why it cannot be used.
        """
        tree = tokenize_tree(tree_of(record, self.columns), self.tokenizer)
        if is_tree_record(record) and not self.trees:
            raise AlignError("it is a tree in a stream that began with pairs: give trees and pairs in streams of their own")
        if not tree.edges:
            raise AlignError("the tree has no edge: nothing in it is preferred")
        equal = equal_edges(truncate(tree, self.max_length, self.truncation_mode))
        if len(equal) == len(tree.edges):
            after = f" after truncation to `max_length` {self.max_length}" if len(equal_edges(tree)) < len(equal) else ""
            raise AlignError(f"`chosen` and `rejected` are the same tokens{after}")
        return (without_edges(tree, equal) if equal else tree), len(equal)

    @property
    def names(self) -> tuple[str, ...]:
        """The token columns."""
        return TREE_COLUMNS if self.trees else _WEIGHTED_PAIR_COLUMNS

    def features(self, dataset: Any) -> Features | None:
        """The types of the converted data set's columns; None where those of the data set are not known."""
        if dataset.features is None:
            return None
        return Features({**dataset.features, **{name: _TYPES[name] for name in (*self.names, REASON, EQUAL)}})


# Streams


@dataclass
class CountedConversion:
    """The conversion of a stream's records, which counts the unusable ones and writes each to a file as it comes by.

    Counts and file are those of the latest pass over the stream. A worker process of a data loader has a file of its own.
    """

    convert: Conversion
    name: str
    aside: Path | None
    limit: float
    seen: int = 0
    unusable: int = 0
    first: str = field(default="", repr=False)

    def __call__(self, record: Mapping[str, Any], number: int) -> dict[str, Any]:
        if number == 0:
            self.seen = self.unusable = 0
            if (path := self._path()) is not None:
                path.unlink(missing_ok=True)
        self.seen += 1
        converted = self.convert(record)
        if converted[REASON]:
            self._keep(record, number, converted[REASON])
        if self.seen >= CHECKED_FROM and self.unusable > self.limit * self.seen:
            raise AlignError(f"{self.first} ({self.told()}; the limit is {self.limit:.0%})")
        return converted

    def told(self) -> str:
        """How many could not be used, in words."""
        kept = f", kept in {self._path()}" if self.aside is not None else ""
        return f"{self.unusable} of the {self.seen} records of the {self.name} data set read so far cannot be used{kept}"

    def _keep(self, record: Mapping[str, Any], number: int, reason: str) -> None:
        where = f"{self.name} data set, record {number}"
        self.unusable += 1
        if self.unusable == 1:
            self.first = f"{where}: {reason}"
        path = self._path()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as out:
            line = {"where": where, "reason": reason, "record": _as_found(record)}
            out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        if str(self.unusable).strip("0") == "1":  # the first, the tenth, the hundredth, …
            logger.warning("%s; the first: %s", self.told(), self.first)

    def _path(self) -> Path | None:
        worker = get_worker_info()
        if self.aside is None or worker is None or worker.id == 0:
            return self.aside
        return self.aside.with_suffix(f".{worker.id}.jsonl")


class StreamSummary(TrainerCallback):
    """Says after every epoch how many of a stream's records could not be used."""

    def __init__(self, preparations: list[Preparation]) -> None:
        """Args: the preparations of the trainer's data sets, as they come."""
        self._preparations = preparations

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Warn, where there are any."""
        for counted in [preparation.counted for preparation in self._preparations]:
            if counted is not None and counted.unusable and counted.aside is not None:
                logger.warning("%s", counted.told())
