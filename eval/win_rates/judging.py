"""Judging outputs against a baseline's. Every verdict is kept as it comes: run again after any end, it asks for what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from align.errors import AlignError, nearest
from align.runs import Journal, read_journal, write_json
from data_pipelines.rollouts.protocol import seed_of
from eval.win_rates.annotations import read_list
from eval.win_rates.judges import TEMPLATE, Ask, Judge, Pair


def read_pairs(outputs: Path, baseline: Path) -> list[Pair]:
    """Two files of outputs in AlpacaEval's format (`instruction`, `output`, `generator`), joined by instruction.

    Raises:
        AlignError: a file cannot be read, a record lacks a field, or an instruction has no output of the baseline.
    """
    mine, theirs = (_outputs(path) for path in (outputs, baseline))
    found = []
    for index, (instruction, (output, name)) in enumerate(mine.items()):
        if instruction not in theirs:
            raise AlignError(f"{baseline}: there is no output to the instruction of {outputs}, record {index}: {instruction[:60]!r}")
        base, base_name = theirs[instruction]
        found.append(Pair(index, instruction, base, output, (base_name, name)))
    return found


def _outputs(path: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for index, record in enumerate(read_list(path)):
        for name in ("instruction", "output"):
            if not isinstance(record, dict) or not isinstance(record.get(name), str):
                hint = nearest(name, [key for key in record if key != "instruction"]) if isinstance(record, dict) else ""
                raise AlignError(f"{path}: record {index}: '{name}' is missing or no text: {hint}")
        found[record["instruction"]] = (record["output"], str(record.get("generator") or path.stem))
    return found


def annotate(
    pairs: Sequence[Pair], judge: Judge, folder: Path, *, template: str = TEMPLATE, both_orders: bool = True, seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Path, list[tuple[float, float]]]:  # fmt: skip
    """Judge all pairs; run again after any end, it asks for what is still missing.

    Args:
        pairs: see `read_pairs`.
        judge: who compares.
        folder: gets `verdicts/`, a journal, and `annotations.json` in AlpacaEval's format.
        template: of the question.
        both_orders: every pair twice, each output first once; otherwise the order is drawn by `seed` and instruction.
        seed: of the order.
        say: told how far it is.

    Returns:
        The annotations' file, and of pairs judged in both orders the preference for the model's output when it stood first and second.

    Raises:
        AlignError: the judge fails; what it said before is kept. Or the folder holds another judge's verdicts.
    """
    _check_same(folder, judge.name, template, pairs)
    asks = [ask for pair in pairs for ask in _orders(pair, both_orders, seed)]
    done = read_journal(folder / "verdicts")
    waiting = [ask for ask in asks if ask.id not in done]
    journal = Journal(folder / "verdicts")
    try:
        for number, verdict in enumerate(judge.judge(waiting, template), 1):
            journal.append([(verdict.ask.id, {"second": verdict.second, "reply": verdict.reply})])
            if number % 50 == 0 or number == len(waiting):
                say(f"{len(asks) - len(waiting) + number} of {len(asks)} verdicts")
    finally:
        journal.close()
    return _write(pairs, asks, read_journal(folder / "verdicts"), judge.name, folder / "annotations.json")


def _orders(pair: Pair, both: bool, seed: int) -> list[Ask]:
    if both:
        return [Ask(pair, False), Ask(pair, True)]
    return [Ask(pair, bool(seed_of(seed, pair.instruction) % 2))]


def _check_same(folder: Path, judge: str, template: str, pairs: Sequence[Pair]) -> None:
    """One folder holds the verdicts of one judge on one set of outputs."""
    asked = {"judge": judge, "template": template, "outputs": seed_of(*((p.instruction, p.baseline, p.output) for p in pairs))}
    file = folder / "asked.json"
    if not file.exists():
        write_json(file, asked)
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for name, words in (("judge", "another judge"), ("template", "another template"), ("outputs", "other outputs")):
        if before.get(name) != asked[name]:
            raise AlignError(f"{folder}: the verdicts in it are of {words}: give another folder")


def _write(
    pairs: Sequence[Pair], asks: Sequence[Ask], verdicts: dict[str, Any], judge: str, path: Path
) -> tuple[Path, list[tuple[float, float]]]:
    by_pair: dict[int, dict[bool, float]] = {pair.index: {} for pair in pairs}
    for ask in asks:
        second = verdicts[ask.id]["second"]
        if second is not None:
            by_pair[ask.pair.index][ask.swapped] = 1 - second if ask.swapped else second
    records = []
    for pair in pairs:
        found = list(by_pair[pair.index].values())
        records.append(
            {
                "instruction": pair.instruction, "output_1": pair.baseline, "output_2": pair.output, "generator_1": pair.names[0],
                "generator_2": pair.names[1], "annotator": judge, "preference": 1 + sum(found) / len(found) if found else None,
            }
        )  # fmt: skip
    write_json(path, records)
    orders = [(found[True], found[False]) for found in by_pair.values() if len(found) == 2]
    return path, orders
