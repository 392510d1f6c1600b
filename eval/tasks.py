"""Evaluation tasks by name, and the stage of a run that measures a model by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from align.models import load_model, load_tokenizer
from align.runs import Task, write_json
from eval.style import gold_and_length
from eval.sums import greedy_accuracy

TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "sums": lambda model, tokenizer, problems: {"accuracy": greedy_accuracy(model, tokenizer, problems)},
    "style": lambda model, tokenizer, problems: gold_and_length(model, tokenizer, problems),
}
"""(model, tokenizer, how many problems) → the task's numbers, the one that matters first."""


def measure(task: str, model: Any, tokenizer: Any, problems: int) -> dict[str, float]:
    """A model's numbers on a task."""
    return TASKS[task](model, tokenizer, problems)


def evaluate(task: Task) -> None:
    """Input: `model`. Settings: `task`, `problems`, `dtype`. Output: `metrics.json`."""
    import torch

    source, settings = task.inputs["model"], task.settings
    model = load_model(source, dtype=settings["dtype"]).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    write_json(task.folder / "metrics.json", measure(settings["task"], model, load_tokenizer(source), settings["problems"]))
