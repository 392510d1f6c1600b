"""The report's tables for wandb and tensorboard, where a recipe's `training.report_to` names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from align.errors import AlignError
from eval.report.frames import Frame, frames
from eval.report.gather import RunData, gather


def track(folder: Path, report: Path) -> list[str]:
    """Hand a run's tables, its 3D curves and its report to the trackers of its recipe.

    Args:
        folder: of the run.
        report: its HTML file.

    Returns:
        The trackers that were told.

    Raises:
        AlignError: a tracker cannot be reached, or is not installed.
    """
    run = gather(folder)
    named = run.recipe.get("training", {}).get("report_to") or []
    wanted = [named] if isinstance(named, str) else list(named)
    told = []
    for name, tell in TRACKERS.items():
        if name in wanted or "all" in wanted:
            try:
                tell(run, report)
            except ImportError as error:
                if name in wanted:
                    raise AlignError(f"training.report_to is {name}: {error}") from error
                continue
            told.append(name)
    return told


def _wandb(run: RunData, report: Path) -> None:
    import wandb

    training = run.recipe.get("training", {})
    project, name = training.get("project") or "huggingface", f"{training.get('run_name') or run.label}-report"
    try:
        with wandb.init(project=project, name=name, job_type="report", config=run.recipe, dir=str(run.path)) as tracker:
            for frame in frames(run):
                tracker.log({frame.name: wandb.Table(columns=frame.columns, data=_alike(frame))})
            for one in run.trainings:
                steps = [float(entry["step"]) for entry in one.three_d]
                drifts = [[float(entry[f"3d/{kind}_drift"]) for entry in one.three_d] for kind in ("chosen", "rejected", "unseen")]
                if steps:
                    plot = wandb.plot.line_series(steps, drifts, keys=["chosen", "rejected", "unseen"], title=f"3D monitor, {one.stage}")
                    tracker.log({f"3d/{one.stage}": plot})
            tracker.log({"report": wandb.Html(report.read_text(encoding="utf-8"), inject=False)})
    except wandb.errors.Error as error:
        raise AlignError(f"wandb: {error}") from error


def _alike(frame: Frame) -> list[list[Any]]:
    """Rows whose columns hold one kind each, as wandb wants it: whole numbers become floats."""
    return [[float(cell) if isinstance(cell, int) else cell for cell in row] for row in frame.rows]


def _plain(cell: object) -> str:
    return "" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ⏎ ")


def _tensorboard(run: RunData, report: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        for frame in frames(run):
            head = f"| {' | '.join(frame.columns)} |\n|{' --- |' * len(frame.columns)}\n"
            rows = [" | ".join(map(_plain, row)) for row in frame.rows]
            writer.add_text(frame.name, head + "".join(f"| {row} |\n" for row in rows))
        for one in run.trainings:
            for entry in one.three_d:
                drifts = {kind: float(entry[f"3d/{kind}_drift"]) for kind in ("chosen", "rejected", "unseen")}
                writer.add_scalars(f"3d/{one.stage}", drifts, int(entry["step"]))
        for one_round in run.rounds:
            if one_round.scores:
                writer.add_histogram(f"shaped rewards/{one_round.name}", np.array(one_round.scores))


TRACKERS: dict[str, Callable[[RunData, Path], None]] = {"wandb": _wandb, "tensorboard": _tensorboard}
