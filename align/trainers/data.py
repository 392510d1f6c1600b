"""Preference data sets → tokenized data sets: what cannot be used is counted, kept aside and never dropped in silence."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as compute
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Features, IterableDataset, List, Value
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerBase, TrainerCallback

from align.engine import TokenTree
from align.engine.tokenize import equal_edges, result_of, tokenize_trees, truncate, without_edges
from align.errors import AlignError, in_words
from align.files import naming, remove
from align.trainers.collator import PAIR_COLUMNS, TREE_COLUMNS, pair_record_of, record_of
from align.trainers.config import PreferenceConfig
from align.trees import (
    PreferenceTree,
    Rejected,
    UnusableRecords,
    check_columns,
    from_arrow,
    from_row,
    is_tree_record,
    on_disk,
    scratch_file,
    tree_dataset,
    tree_of,
)
from align.trees.files import LOOKED_AT, record_dataset

logger = logging.getLogger(__name__)
REASON = "_unusable"
EQUAL = "_equal_edges"
CHECKED_FROM = 100  # records of a stream: from then on its share of unusable ones is held against the limit
_IDS, _NUMBERS = List(Value("int32")), List(Value("float64"))
_TYPES = {
    **dict.fromkeys(PAIR_COLUMNS, _IDS), "node_ids": List(_IDS), "node_parents": _IDS, "edges": List(_IDS),
    "edge_weights": _NUMBERS, "edge_margins": _NUMBERS, REASON: Value("string"), EQUAL: Value("int64"),
}  # fmt: skip
_THREADS, _OURS = "TOKENIZERS_PARALLELISM", "0"  # the tokenizers library's switch, and off as written here; users write "false"
_BATCH = 128  # records that go to the tokenizer at once
_TEXT_OF_TREES = ("prompt", "prompt_messages", "nodes", "prompt_token_ids", "metadata")  # what nothing reads of a tree that is tokenized
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
        return made_on_each_node(lambda: _listed(data))
    return data


def _listed(data: Sequence[Any]) -> Dataset:
    if any(isinstance(one, PreferenceTree) for one in data):
        return tree_dataset(one if isinstance(one, PreferenceTree) else tree_of(one) for one in data)
    return on_disk(record_dataset(data))


def made_on_each_node(make: Callable[[], Dataset]) -> Dataset:
    """A data set in files that one process of every node makes, and all of that node's map.

    Args:
        make: makes it, in one file; called by one process of each node.

    Raises:
        AlignError: the making failed on another rank; where it failed, what it raised.
    """
    state = PartialState()
    if state.num_processes == 1:
        return make()
    node = state.process_index - state.local_process_index
    dataset: Dataset | None = None
    failure: Exception | None = None
    if state.is_local_main_process:
        try:
            dataset = make()
        except Exception as error:  # whatever it is, the others are not left waiting
            failure = error
    files = [] if dataset is None else [(node, dataset.cache_files[0]["filename"])]
    reasons = [] if failure is None else [in_words(failure) if isinstance(failure, OSError) else str(failure) or type(failure).__name__]
    files, reasons = gather_object(files), gather_object(reasons)
    if failure is not None:
        raise failure
    if reasons:
        raise AlignError(reasons[0])
    if dataset is None:
        dataset = Dataset.from_file(dict(files)[node])
    state.wait_for_everyone()  # the file is gone when its maker ends: not before the others have it
    return dataset


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
            tokenized = self._tokenized(dataset, convert)
        self._check_margins(tokenized)
        return self._usable(dataset, tokenized).remove_columns([REASON, EQUAL])

    def _tokenized(self, dataset: Dataset, convert: Conversion) -> Dataset:
        """On the disk, also where the data set is in memory."""
        file = None if dataset.cache_files else scratch_file("tokenized")
        with _all_cores(), naming(file or dataset.cache_files[0]["filename"]):
            tokenized = dataset.map(
                convert.batch,
                batched=True,
                batch_size=_BATCH,
                num_proc=self.args.dataset_num_proc,
                remove_columns=convert.removed(dataset),
                features=convert.features(dataset),
                cache_file_name=file,
                desc=f"Tokenizing {self.name} dataset",
            )
        return tokenized.with_format(None)  # a transform that made the records does not make the tokens

    def _check_margins(self, tokenized: Dataset) -> None:
        if self.reads_margins:
            return
        margins = compute.list_flatten(tokenized.data.column("edge_margins"))
        if compute.any(compute.not_equal(margins, 0.0)).as_py():
            raise AlignError(
                f"the {self.name} data set: an edge has a `margin`, which none of the losses in `loss_type` reads: use sigmoid, flex or "
                "hinge, or leave it out (`columns: {margin: null}`)"
            )

    def _usable(self, dataset: Dataset, tokenized: Dataset) -> Dataset:
        reasons = _column(tokenized, REASON)
        kept = [number for number, reason in enumerate(reasons) if not reason]
        left_out = sum(_column(tokenized, EQUAL))
        if left_out and self._is_main:
            logger.warning("%d edges of the %s data set join two equal responses and are left out", left_out, self.name)
        if len(kept) == len(reasons):
            if self._is_main:
                remove(self._aside)  # of data that was mended since
            return tokenized
        with UnusableRecords(self._aside if self._is_main else None) as unusable:
            for number, reason in enumerate(reasons):
                if reason:
                    record = dataset[number]
                    unusable.add(Rejected(self._where(number, record), reason, _as_found(record)))
            unusable.check(len(kept), self.args.max_rejected_share)
        assert unusable.first is not None
        if not kept:
            raise AlignError(f"{unusable.first.where}: {unusable.first.reason} (no record is left; all are kept in {self._aside})")
        if self._is_main:
            logger.warning(
                "%d of %d records cannot be used and are kept in %s; the first: %s",
                unusable.count, len(reasons), self._aside, unusable.first.reason,
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
        features = convert.features(dataset)
        removed = convert.removed(dataset) if features is not None else None
        converted = dataset.map(self.counted, with_indices=True, features=features, remove_columns=removed)
        usable = converted.filter(_is_usable).remove_columns([REASON, EQUAL])
        if next(iter(usable), None) is None:
            raise AlignError(f"{self.counted.first} ({self.counted.told()}; no record is left)")
        return usable


def _column(dataset: Dataset, name: str) -> list[Any]:
    """A column of single values of what `map` made, read as a whole."""
    return list(dataset.data.column(name).to_pylist())


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizer use its threads, and keep it from warning of them in every process that is forked afterwards."""
    if _THREADS in os.environ and os.environ[_THREADS] != _OURS:
        yield  # the user has decided
        return
    os.environ.pop(_THREADS, None)
    try:
        yield
    finally:
        os.environ[_THREADS] = _OURS


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
        """One record's columns."""
        [converted] = self._converted([record])
        return converted

    def batch(self, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The same of many records at once, given and returned by columns."""
        names = list(columns)
        converted = self._converted([dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)])
        return {name: [record[name] for record in converted] for name in converted[0]}

    def _converted(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        trees = [result_of(self._tree, from_arrow(record)) for record in records]
        tokenized = iter(tokenize_trees([tree for tree in trees if not isinstance(tree, AlignError)], self.tokenizer))
        return [self._record(tree if isinstance(tree, AlignError) else next(tokenized)) for tree in trees]

    def _tree(self, record: Mapping[str, Any]) -> PreferenceTree:
        tree = tree_of(record, self.columns)
        if is_tree_record(record) and not self.trees:
            raise AlignError("it is a tree in a stream that began with pairs: give trees and pairs in streams of their own")
        if not tree.edges:
            raise AlignError("the tree has no edge: nothing in it is preferred")
        return tree

    def _record(self, tree: TokenTree | AlignError) -> dict[str, Any]:
        usable = tree if isinstance(tree, AlignError) else result_of(self._without_equal_edges, tree)
        if isinstance(usable, AlignError):
            return {**{name: [] for name in self.names}, REASON: str(usable), EQUAL: 0}
        tree, equal = usable
        return {**(record_of(tree) if self.trees else pair_record_of(tree)), REASON: "", EQUAL: equal}

    def _without_equal_edges(self, tree: TokenTree) -> tuple[TokenTree, int]:
        """The tree and how many of its edges were left out because both ends are the same tokens."""
        equal = equal_edges(truncate(tree, self.max_length, self.truncation_mode))
        if len(equal) == len(tree.edges):
            after = f" after truncation to `max_length` {self.max_length}" if len(equal_edges(tree)) < len(equal) else ""
            raise AlignError(f"`chosen` and `rejected` are the same tokens{after}")
        return (without_edges(tree, equal) if equal else tree), len(equal)

    @property
    def names(self) -> tuple[str, ...]:
        """The token columns."""
        return TREE_COLUMNS if self.trees else _WEIGHTED_PAIR_COLUMNS

    def removed(self, dataset: Any) -> list[str]:
        """The columns of a data set that its tokens replace."""
        return [name for name in dataset.column_names if self.trees and name in _TEXT_OF_TREES]

    def features(self, dataset: Any) -> Features | None:
        """The types of the converted data set's columns; None where those of the data set are not known."""
        if dataset.features is None:
            return None
        kept = {name: types for name, types in dataset.features.items() if name not in self.removed(dataset)}
        return Features({**kept, **{name: _TYPES[name] for name in (*self.names, REASON, EQUAL)}})


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
