"""The start of micro code: a model trained from scratch, problems to sample for, and others to be tested on."""

from __future__ import annotations

import shutil

from align.runs import Task
from align.trees import write_jsonl
from data_pipelines.micro.code import CodeModel, build, chains


def prepare(task: Task) -> None:
    """Setting: `seed`. Outputs: `model/`, `problems.jsonl`, `test.jsonl`."""
    seed = task.settings["seed"]
    shutil.copytree(build(CodeModel(seed=seed)), task.folder / "model", dirs_exist_ok=True)
    for name, count, split in (("problems", 600, "pairs"), ("test", 400, "test")):
        write_jsonl((chain.record() for chain in chains(count, seed, split)), task.folder / f"{name}.jsonl")
