"""Evaluation tasks by name, and the stage of a run that measures a model by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from align.models import load_model, load_tokenizer
from align.runs import Task, write_json
from data_pipelines.micro.start_model import resolve
from eval import style, sums
from eval.answers import Measured, write_answers
from eval.settings import TaskSettings

TASKS: dict[str, Callable[[Any, Any, int], Measured]] = {"sums": sums.measure, "style": style.measure}
"""(model, tokenizer, how many problems) → the task's numbers and its graded answers."""


def measure(task: str, model: Any, tokenizer: Any, problems: int) -> Measured:
    """Measure a model on a task."""
    return TASKS[task](model, tokenizer, problems)


def evaluate(task: Task) -> None:
    """Input: `model`. Settings: `TaskSettings`. Outputs: `answers/`, a journal; `metrics.json`."""
    import torch

    settings = task.read(TaskSettings)
    source = resolve(task.inputs["model"], settings.seed)
    model = load_model(source, dtype=settings.dtype).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    found = measure(settings.task, model, load_tokenizer(source), settings.problems)
    write_answers(task, found.answers)
    write_json(task.folder / "metrics.json", found.numbers)
