"""A run in a line: what is about to be done, and what came out of it."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.plans import TRAINING, Run, last_training

_METHODS = {
    "data": "training on preferences", "rounds": "rounds of sampling, scoring and training", "thoughts": "training on tree searches",
    "code": "training on programs and their tests",
}  # fmt: skip


def first_line(run: Run) -> str:
    """What is about to be done: folder, method and loss, model, data, and how many rounds, steps or epochs, and stages."""
    recipe, training = run.recipe, run.recipe.training
    loss = training.get("loss_type", "sigmoid")
    losses = " + ".join(loss) if isinstance(loss, (list, tuple)) else str(loss)
    sources = [recipe.data.train, recipe.rollouts.prompts if recipe.rollouts else None]
    length = (
        _count(training["max_steps"], "step") if training.get("max_steps", -1) > 0 else _count(training.get("num_train_epochs", 3), "epoch")
    )
    rounds = f"{recipe.loop.count} rounds of " if recipe.method.makes_preferences and recipe.loop.count > 1 else ""
    words = [f"{_METHODS[recipe.method.key]} ({losses})", f"model {recipe.model.name_or_path}"]
    words += [f"data {' and '.join(dict.fromkeys(source for source in sources if source))}"] if any(sources) else []
    words += [f"{rounds}{length}", _count(len(run.stages), "stage")]
    return f"{run.folder.path}: {', '.join(words)}"


def last_line(run: Run, report: Path | None = None) -> str:
    """What came out of a run: pairs, steps, seconds; loss and share of pairs ranked right from first to last log step of the last training;
    where the model lies, the report, and what to do next. "" where no training is finished.

    Args:
        run: that is done.
        report: its report, where it has one.
    """
    try:
        last = last_training(run)
    except AlignError:
        return ""
    trainings = [run.folder.stage(stage.name) for stage in run.stages if stage.function == TRAINING]
    logs = [_log(folder) for folder in trainings]
    pairs = sum(_content(folder / "data.json").get("train", {}).get("pairs", 0) for folder in trainings)
    steps = sum(max((entry.get("step", 0) for entry in log), default=0) for log in logs)
    manifests = [run.folder.manifest(stage.name) for stage in run.stages]
    seconds = sum(manifest["seconds"] for manifest in manifests if manifest)
    several = f" in {len(trainings)} trainings" if len(trainings) > 1 else ""
    parts = [f"{_count(pairs, 'pair')}, {_count(steps, 'step')}{several}, {seconds:,.0f} s"]
    numbers = _log(Path(last["model"]).parent)
    parts += _course("loss", [entry["loss"] for entry in numbers if "loss" in entry], ".2f")
    parts += _course("pairs ranked right", [entry["rewards/accuracies"] for entry in numbers if "rewards/accuracies" in entry], ".0%")
    parts.append(f"model: {last['model']}")
    parts += [f"report: {report}"] if report is not None else []
    base = run.recipe.model.name_or_path
    against = "" if base.startswith("micro:") else f" --against {shlex.quote(base)}"
    parts.append(f"next: align chat {shlex.quote(str(run.folder.path))}{against}")
    return "; ".join(parts)


def _count(number: float, unit: str) -> str:
    """A number with its unit, in the plural where it is not 1."""
    return f"{number:,}".removesuffix(".0") + f" {unit}{'' if number == 1 else 's'}"


def _course(name: str, values: list[float], form: str) -> list[str]:
    """From the first value to the last; only the last where there is one, nothing where there is none."""
    ends = [format(value, form) for value in (values[:1] + values[1:][-1:])]
    return [f"{name} {' → '.join(ends)}"] if ends else []


def _log(folder: Path) -> list[dict[str, Any]]:
    """The log steps of a training; those that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").split("\n") if line]
    return []


def _content(path: Path) -> dict[str, Any]:
    """A file's named values; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
