"""Annotations in AlpacaEval's format: what a judge thought of two outputs to the same instruction."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import AlignError, nearest
from align.trees import Rejected, check_rejected

FIELDS = ("instruction", "output_1", "output_2", "preference", "generator_1", "generator_2")


@dataclass(frozen=True)
class Annotation:
    """One comparison.

    Attributes:
        index: its place in the file, which names the instruction.
        instruction: what was asked.
        output_1, output_2: of the baseline and of the model.
        preference: how surely the model's is better, 0 to 1; 0.5 is a draw; None where the judge said nothing.
        baseline, model: their names.
    """

    index: int
    instruction: str
    output_1: str
    output_2: str
    preference: float | None
    baseline: str
    model: str


def read_annotations(path: str | Path, *, keep_aside: Path | None = None, max_rejected_share: float = 0.1) -> list[Annotation]:
    """The annotations of a `.json` or `.jsonl` file, packed by gzip or not.

    In the file a preference runs from 1 (the baseline's is better) to 2 (the model's is); 0 and 1.5 are draws.

    Args:
        path: the file.
        keep_aside: where records that cannot be used are written, with the reason.
        max_rejected_share: how many of them may be.

    Raises:
        AlignError: there is no such file, it is no JSON, or too many records are unusable: names the first.
    """
    records = read_list(Path(path))
    found, rejected = [], []
    for index, record in enumerate(records):
        problem = _problem(record)
        if problem is not None:
            rejected.append(Rejected(f"{path}: record {index}", problem, record if isinstance(record, dict) else {"record": record}))
            continue
        names = (str(record.get("generator_1") or "baseline"), str(record.get("generator_2") or "model"))
        found.append(Annotation(index, record["instruction"], record["output_1"], record["output_2"], _share(record["preference"]), *names))
    check_rejected(len(found), rejected, keep_aside, max_rejected_share)
    if not found:
        raise AlignError(f"{path}: there is no annotation")
    models = sorted({one.model for one in found})
    if len(models) > 1:
        raise AlignError(f"{path}: generator_2 names {len(models)} models, {' and '.join(models[:2])}: a win rate is of one")
    return found


def read_list(path: Path) -> list[Any]:
    """The records of a `.json` list or a `.jsonl` file, packed by gzip or not.

    Raises:
        AlignError: there is no such file, or it is no such list.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AlignError(f"{path}: cannot be read ({error})") from error
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    try:
        found = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except ValueError as error:
        raise AlignError(f"{path}: is not JSON ({error})") from error
    if not isinstance(found, list):
        raise AlignError(f"{path}: expected a list of records, found {type(found).__name__}")
    return found


def _problem(record: Any) -> str | None:
    """Why a record cannot be used."""
    if not isinstance(record, dict):
        return f"expected an object with {', '.join(FIELDS[:4])}, found {type(record).__name__}"
    for name in FIELDS[:4]:
        if name not in record:
            return f"'{name}' is missing: {nearest(name, [key for key in record if key not in FIELDS])}"
    for name in FIELDS[:3]:
        if not isinstance(record[name], str):
            return f"'{name}' is {type(record[name]).__name__}, expected text"
    value = record["preference"]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value == 0 or 1 <= value <= 2 or math.isnan(value)):
        return f"'preference' is {value!r}, expected 1 (the baseline's output is better) to 2 (the model's), 1.5 for a draw, or null"
    return None


def _share(preference: float | None) -> float | None:
    if preference is None or math.isnan(preference):
        return None
    return 0.5 if preference == 0 else float(preference) - 1.0
