"""What `align run RECIPE` does: every variant and seed of a recipe as a run of stages, one after the other or side by side."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from align import recipes
from align.errors import AlignError, InterruptedRunError, nearest
from align.files import DamagedError, read_json, write_text
from align.machine import usable_cpus
from align.recipes import Recipe
from align.recipes.schema import Data
from align.runs import RunFolder, Shard, Stage, execute
from align.runs.forks import ForkServer
from align.runs.journal import WHOLE
from align.runs.plan import up_to
from align.runs.stage import read_specification
from align.runs.watching import Labelled, Watcher
from data_pipelines import rounds
from data_pipelines.code_execution.plan import CodeMethod
from data_pipelines.implicit_rewards.plan import RewardMethod
from data_pipelines.rounds import Method, PreferenceData
from data_pipelines.thought_trees.plan import ThoughtMethod
from eval.plan import measuring, results_of

TRAINING = "align.experiment:train_stage"
WITHOUT_EFFECT = {
    "dataloader_num_workers", "dataloader_pin_memory", "dataset_num_proc", "disable_tqdm", "log_level", "logging_first_step",
    "logging_steps", "logging_strategy", "project", "report_to", "run_name", "save_steps", "save_strategy", "save_total_limit",
}  # fmt: skip
"""Training settings that change nothing of the model: a run that is done stays done when they change."""
METHODS: dict[str, Callable[[Recipe], Method]] = {
    "thoughts": ThoughtMethod, "code": CodeMethod, "rounds": RewardMethod, "data": PreferenceData,
}  # fmt: skip
"""The section of a recipe that says how preferences are made → the method that it stands for."""


@dataclass(frozen=True)
class Run:
    """One run: a recipe without variants, its folder, its stages; what several seeds have in common is the variant."""

    label: str
    recipe: Recipe
    folder: RunFolder
    stages: list[Stage]
    variant: str = "run"


@dataclass(frozen=True)
class Outcome:
    """What a run reports: the numbers of each suite before and after, and the last 3D measurement."""

    name: str
    seed: int
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    three_d: dict[str, float]
    output_dir: str


def runs_of(recipe: Recipe) -> list[Run]:
    """The runs of a recipe: every variant with every seed.

    Raises:
        AlignError: sections that the method needs are missing.
    """
    return list(each_run(recipe))


def each_run(recipe: Recipe) -> Iterator[Run]:
    """As `runs_of`, each planned when it is asked for."""
    for seed in recipe.seeds:
        for name in recipe.variants or [None]:
            one = recipes.variant(recipe, name, seed)
            label = " ".join([*([name] if name else []), *([f"seed {seed}"] if len(recipe.seeds) > 1 else [])]) or "run"
            yield Run(label, one, RunFolder(one.training["output_dir"]), stages_of(one), name or "run")


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe without variants.

    Raises:
        AlignError: sections that the method needs are missing, or contradict each other.
    """
    method = method_of(recipe)
    stages = rounds.stages_of(recipe, method, _training, functools.partial(measuring, recipe, method))
    _check_names(stages)
    return stages


def method_of(recipe: Recipe) -> Method:
    """How a recipe without variants makes its preferences.

    Raises:
        AlignError: sections that the method needs are missing.
    """
    return METHODS[recipe.method.key](recipe)


def _check_names(stages: Sequence[Stage]) -> None:
    """See that no stage's folder lies in another's: suites are named by the user."""
    names = {stage.name for stage in stages}
    for stage in stages:
        for above in Path(stage.name).parents:
            if str(above) in names:
                raise AlignError(
                    f"measure: results cannot be named '{above.name}', as a stage of the run is: give the suite another `name`"
                )


def _training(recipe: Recipe) -> Stage:
    """How a model of a recipe, or of a round's, is trained."""
    unseen = {"output_dir", *WITHOUT_EFFECT}
    settings = {
        "model": recipe.model.model_dump(exclude={"name_or_path", "reference"}),
        "data": _read_by_training(recipe).model_dump(exclude={"train", "eval"}),
        "training": {key: value for key, value in recipe.training.items() if key not in unseen},
    }
    launch: dict[str, Any] = {
        "training": {key: value for key, value in recipe.training.items() if key in WITHOUT_EFFECT}, "saves_when_asked": True,
    }  # fmt: skip
    if recipe.resources.accelerate:
        launch["accelerate"] = accelerate_config(recipe.resources.accelerate)
    return Stage("train", TRAINING, settings, resources=launch)


def _read_by_training(recipe: Recipe) -> Data:
    """`data` without what says how to read a set that the training does not read: of preferences that are made, `data.train`."""
    unread = ["train_split", "limit"] if recipe.method.makes_preferences else []
    if recipe.data.eval is None:
        unread += ["eval_split", *(["columns"] if recipe.method.makes_preferences else [])]
    return recipe.data.with_defaults(*unread)


def run_all(
    runs: Sequence[Run], *, until: str | None = None, shard: Shard | None = None, jobs: int = 1, say: Callable[[str], None] = print,
    environment: Mapping[str, str] | None = None, watcher: Watcher | None = None,
) -> None:  # fmt: skip
    """Bring every run up to date. SIGTERM and SIGINT end it cleanly; the same command goes on.

    Args:
        runs: of one recipe.
        until: the last stage to do.
        shard: see `align.runs.execute`.
        jobs: runs side by side; the CPUs that this process may use are divided among them.
        say: told a line when a stage begins, and one when it is done.
        environment: variables for the stages' processes.
        watcher: see `align.runs.execute`.

    Raises:
        InterruptedRunError: a signal came.
        AlignError: a stage failed.
    """
    for run in runs:
        up_to(run.stages, until)
    variables = {"OMP_NUM_THREADS": str(max(1, usable_cpus() // jobs))} if jobs > 1 else {}
    variables |= environment or {}
    with stopping_on_signals() as stop, ForkServer() as forks:

        def one(run: Run) -> None:
            prefix = f"{run.label:<24} " if len(runs) > 1 else ""
            watched = Labelled(run.label, watcher) if len(runs) > 1 and watcher is not None else watcher
            run.folder.path.mkdir(parents=True, exist_ok=True)
            write_recipe(run)
            stages = up_to(run.stages, until)
            execute(
                stages, run.folder, shard=shard, stop=stop, say=lambda line: say(prefix + line), watcher=watched, environment=variables,
                forks=forks,
            )  # fmt: skip

        if jobs == 1 or len(runs) == 1:
            for run in runs:
                one(run)
            return
        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(one, run) for run in runs]
            errors = [error for future in waiting if (error := future.exception()) is not None]
        if errors:
            raise next((e for e in errors if not isinstance(e, InterruptedRunError)), errors[0])


def load_run(path: Path) -> Run:
    """The run that was begun in a folder.

    Raises:
        AlignError: there is none.
    """
    source = path / "recipe.yaml"
    if not source.exists():
        raise AlignError(f"{path}: no run was begun here (there is no recipe.yaml)")
    recipe = recipes.load(source)
    return Run(path.name, recipe, RunFolder(path), stages_of(recipe))


def run_folders(path: Path) -> list[Path]:
    """The runs in a folder: itself, or those of a recipe's variants and seeds below it.

    Raises:
        AlignError: there is none.
    """
    found = sorted(source.parent for source in path.glob("**/recipe.yaml") if "superseded" not in source.parts)
    if not found:
        raise AlignError(f"{path}: there is no run in this folder")
    return found


def round_metrics(run: Run) -> Iterator[tuple[int, dict[str, float]]]:
    """Round number (0 is the start) and numbers of every finished round: those of every suite, and the round's statistics."""
    for number in range(run.recipe.loop.count + 1):
        name = f"round-{number}" if number else "start"
        metrics: dict[str, float] = {}
        for suite in run.recipe.measure:
            of_this = _read(run.folder.stage(f"{name}/{suite.label}/evaluate") / "metrics.json")
            prefix = f"{suite.label} " if len(run.recipe.measure) > 1 else ""
            metrics |= {prefix + key: value for key, value in of_this.items()}
        statistics = _read(run.folder.stage(f"{name}/pair") / "statistics.json")
        if "alpha" in statistics:
            shaped = {"alpha": statistics["alpha"]} if statistics["alpha"] else {}
            metrics = {**metrics, **statistics["rewards"], **shaped}
        if metrics:
            yield number, metrics


def last_training(run: Run) -> dict[str, str]:
    """`model`, `reference` and `data` of the last training that a run has finished.

    Raises:
        AlignError: it has not finished any.
    """
    for stage in reversed(run.stages):
        folder = run.folder.stage(stage.name)
        if stage.function == TRAINING and (folder / "model").exists():
            inputs = read_specification(folder, WHOLE)[1].inputs
            return {"model": str(folder / "model"), "reference": inputs.get("reference", inputs["model"]), "data": inputs["data"]}
    raise AlignError(f"{run.folder.path}: no training is finished here yet")


def before_and_after(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """By suite the numbers that are there: `before`, `after` all rounds, and of the start model's `search`."""
    found = {}
    for suite in run.recipe.measure:
        stages = results_of(run.recipe, suite)
        numbers = {moment: _read(run.folder.stage(stage) / "metrics.json") for moment, stage in stages.items()}
        found[suite.label] = {moment: metrics for moment, metrics in numbers.items() if metrics}
    return found


def outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """What runs of training alone report, as far as they are done."""
    found = []
    for run in runs:
        training = run.folder.stage("train")
        watched = training / "three_d.jsonl"
        last: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, IndexError):  # not measured, or damaged
            last = dict(json.loads(watched.read_text(encoding="utf-8").rstrip("\n").split("\n")[-1]))
        if (training / "model").exists():
            three_d = {key: value for key, value in last.items() if key.startswith("3d/")}
            results = before_and_after(run)
            before, after = ({suite: found[key] for suite, found in results.items() if key in found} for key in ("before", "after"))
            found.append(Outcome(run.variant, run.recipe.seed, before, after, three_d, str(training / "model")))
    return found


def _read(path: Path) -> dict[str, Any]:
    """A file's named numbers; none where it is not there, or damaged (the report names it)."""
    content: dict[str, Any] | None = None
    with contextlib.suppress(DamagedError):
        content = read_json(path, lambda content: isinstance(content, dict))
    return content or {}


def write_recipe(run: Run) -> None:
    """Leave a run's recipe in its folder, from which `load_run` knows it."""
    content = run.recipe.model_dump(exclude_defaults=True)
    write_text(run.folder.path / "recipe.yaml", yaml.safe_dump(content, sort_keys=False))


def accelerate_config(name: str) -> str:
    """The file of `resources.accelerate`.

    Raises:
        AlignError: there is none.
    """
    for candidate in (Path(name), recipes.RECIPES / "accelerate" / f"{name}.yaml"):
        if candidate.is_file():
            return str(candidate)
    known = [path.stem for path in (recipes.RECIPES / "accelerate").glob("*.yaml")]
    raise AlignError(f"resources.accelerate is '{name}': no such configuration: {nearest(name, known)}")


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, as long as the context lasts."""
    stop = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
