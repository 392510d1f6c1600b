"""The start of micro CPO: a model trained from scratch, questions to search, and others to be tested on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from align.runs import Task
from align.trees import write_jsonl
from data_pipelines.micro import careless, start_model
from data_pipelines.micro.sums import problems

BUILD: dict[str, Callable[[int], Path]] = {
    "sums": lambda seed: start_model.build(start_model.StartModel(seed=seed)),
    "careless": lambda seed: careless.build(careless.Careless(seed=seed)),
}
MODULO = {"sums": None, "careless": careless.MODULUS}
QUESTIONS = {"questions": (500, "pairs"), "test": (400, "test")}  # of about 650 that each split has


def prepare(task: Task) -> None:
    """Settings: `kind` (of `BUILD`), `seed`. Outputs: `model/`, `questions.jsonl`, `test.jsonl`."""
    kind, seed = task.settings["kind"], task.settings["seed"]
    shutil.copytree(BUILD[kind](seed), task.folder / "model", dirs_exist_ok=True)
    for name, (count, split) in QUESTIONS.items():
        distinct = list(dict.fromkeys(problems(8 * count, seed, split)))[:count]
        write_jsonl(
            ({"problem": "+".join(map(str, p.numbers)), "answer": str(_total(p.numbers, MODULO[kind]))} for p in distinct),
            task.folder / f"{name}.jsonl",
        )


def _total(numbers: tuple[int, ...], modulo: int | None) -> int:
    return sum(numbers) if modulo is None else sum(numbers) % modulo
