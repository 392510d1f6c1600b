"""What of a data set a training uses, and what was left out of it: counted, said, and kept in files that stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.files import put, remove, write_json
from align.trainers.collator import token_tree

MEASURED = 500  # records whose lengths are looked at
NAME = "data.json"


@dataclass(frozen=True)
class UsedData:
    """What a training makes of one data set.

    Attributes:
        used: records that it trains or evaluates on; trees, where prompts are merged.
        left_out: records that it cannot use.
        first: the first of these, its place and the reason; "" where there is none.
        kept_in: names of the files that hold them.
        pairs: preferences in the records that are used.
        prompt, chosen, rejected: lengths in tokens, of the first records.
    """

    used: int
    left_out: int
    first: str
    kept_in: list[str]
    pairs: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def sentence(self, name: str, folder: Path) -> str:
        """What is said of it in the terminal; `name` is the data set's, `folder` that of the files."""
        if not self.left_out:
            return f"all {self.used:,} records of {name} used"
        files = ", ".join(str(folder / file) for file in self.kept_in)
        total = self.used + self.left_out
        return f"{self.used:,} of {total:,} records of {name} used; {self.left_out:,} left out, the first: {self.first} → {files}"


def files_of(part: str) -> tuple[str, str]:
    """The files that hold what is left out of a part, "train" or "eval": records that cannot be read, and that cannot be tokenized.

    >>> files_of("train"), files_of("eval")
    (('unreadable.jsonl', 'rejected-train.jsonl'), ('unreadable-eval.jsonl', 'rejected-eval.jsonl'))
    """
    return "unreadable.jsonl" if part == "train" else f"unreadable-{part}.jsonl", f"rejected-{part}.jsonl"


def keep(parts: Mapping[str, Any], source: Path, folder: Path) -> dict[str, UsedData]:
    """Count what is used and what is left out, and leave both in a folder: the files of `files_of`, and `data.json` with the counts.

    Args:
        parts: "train" and "eval" → the tokenized data set; None: there is none.
        source: where the files are.
        folder: where they are to stay; may be `source`.

    Returns:
        What is used, by part.
    """
    used = {}
    for part, dataset in parts.items():
        if dataset is None:
            continue
        for file in files_of(part):
            if source != folder:
                remove(folder / file)  # of an attempt before
                if (source / file).exists():
                    put(source / file, folder / file)
        used[part] = used_data(dataset, part, folder)
    write_json(folder / NAME, {part: asdict(data) for part, data in used.items()})
    return used


def used_data(dataset: Any, part: str, folder: Path) -> UsedData:
    """What is used of one data set, tokenized, and what was left out of it by the files in a folder."""
    kept = [folder / file for file in files_of(part) if (folder / file).exists()]
    count, first = 0, ""
    for file in kept:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                if not first:
                    record = json.loads(line)
                    first = f"{record['where']}: {record['reason']}"
                count += 1
    trees = [token_tree(dataset[number]) for number in range(min(len(dataset), MEASURED))]
    edges = [(tree, edge) for tree in trees for edge in tree.edges]
    return UsedData(
        len(dataset), count, first, [file.name for file in kept], _pairs(dataset), [len(tree.tokens[0]) for tree in trees],
        *([len(tree.tokens[edge[side]]) for tree, edge in edges] for side in (0, 1)),
    )  # fmt: skip


def _pairs(dataset: Any) -> int:
    """Preferences in a tokenized data set, whose edges are counted by their weights."""
    import pyarrow.compute as compute

    column = dataset.with_format("arrow")[:]["edge_weights"] if len(dataset) and "edge_weights" in dataset.column_names else None
    return len(dataset) if column is None else int(compute.sum(compute.list_value_length(column)).as_py() or 0)
