"""`align run RECIPE --rehearse`: every stage of every round on a handful of records. What fails here would have failed after hours."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from align import plans, recipes
from align.checks import check
from align.errors import AlignError, InterruptedRunError
from align.plans import Run
from align.recipes import Recipe
from align.rehearsal.scripts import script_of
from align.rehearsal.settings import Machine, Rehearsed, Weights, this_machine
from align.runs import RunFolder, Stage
from align.runs.plan import up_to
from align.runs.watching import Watcher

__all__ = ["Report", "Weights", "rehearse"]

QUIET = {"DATASETS_VERBOSITY": "error"}
"""What the stages' processes are told: there is so little to do."""


@dataclass(frozen=True)
class Report:
    """What a rehearsal was.

    Attributes:
        stages: how many were carried out, over all variants.
        replaced: what was not as it will be, a sentence each.
        seconds: how long it took.
    """

    stages: int
    replaced: list[str]
    seconds: float


def rehearse(
    recipe: Recipe, weights: Weights, *, until: str | None = None, say: Callable[[str], None] = print, machine: Machine | None = None,
    watcher: Watcher | None = None,
) -> Report:  # fmt: skip
    """Carry every variant of a recipe through its stages, in a folder that is deleted afterwards.

    Args:
        recipe: as it would be run; its first seed is taken.
        weights: small random models, or the recipe's own.
        until: the last stage to rehearse.
        say: told a line when a stage begins, and one when it is done.
        machine: what can be had here (default: found out).
        watcher: see `align.runs.execute`.

    Raises:
        AlignError: what the run would fail at. The folder is kept, and named.
    """
    started = time.monotonic()
    target = Path(recipe.training.get("output_dir") or "runs/train")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}-rehearsal-", dir=target.parent))
    try:
        making = Rehearsed(folder, weights, machine or this_machine())
        runs = _prepared(recipe, making, folder)
    except BaseException:  # nothing has been carried out: there is nothing to look at
        shutil.rmtree(folder)
        raise
    try:
        plans.run_all(runs, until=until, say=say, environment=QUIET, watcher=watcher)
    except InterruptedRunError as error:
        shutil.rmtree(folder)
        raise InterruptedRunError("the rehearsal was interrupted, and its folder deleted") from error
    except AlignError as error:
        reason = str(error).removesuffix(", then run the same command to go on")
        raise AlignError(f"the rehearsal fails: {reason}\nalign: its folder is kept: {folder}") from error
    shutil.rmtree(folder)
    return Report(sum(len(up_to(run.stages, until)) for run in runs), making.replaced, time.monotonic() - started)


def _prepared(recipe: Recipe, making: Rehearsed, folder: Path) -> list[Run]:
    """Every variant's run with its stages, checked."""
    runs = [_run(making, recipe, name, folder) for name in recipe.variants or [None]]
    for run in runs:
        check(run)
    return [replace(run, stages=[_with_script(stage, run, making) for stage in run.stages]) for run in runs]


def _run(making: Rehearsed, recipe: Recipe, name: str | None, folder: Path) -> Run:
    label = name or "run"
    rehearsed = making.recipe(recipes.variant(recipe, name, recipe.seeds[0]), label)
    return Run(label, rehearsed, RunFolder(folder / label), plans.stages_of(rehearsed))


def _with_script(stage: Stage, run: Run, making: Rehearsed) -> Stage:
    """The stage with written responses beside the sampled ones, where later stages would else get nothing that they can use."""
    script = script_of(stage, run.stages)
    if script is None:
        return stage
    path = run.folder.path.parent / "scripts" / run.label / f"{stage.name.replace('/', '-')}.json"
    script.write(path)
    making.note(f"{stage.name}: responses written after the records stand beside the model's own")
    engine = stage.settings["engine"]
    options = {"engine": engine["engine"], "options": engine["options"], "script": str(path)}
    return replace(stage, settings={**stage.settings, "engine": {**engine, "engine": "scripted", "options": options}})
