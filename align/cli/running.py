"""`align train | launch | run | slurm | status | estimate`: carrying recipes out."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.cli.terminal import lines_of, show
from align.errors import AlignError
from align.imports import without_collection

if TYPE_CHECKING:
    from align.recipes import Recipe

REHEARSALS = ("small", "real")


def add(commands: Any) -> None:
    """Add these commands to a parser's."""
    train = commands.add_parser(
        "train", help="train a recipe", description="Train a recipe; every variant, every seed. Example: align train dpo/llama3-8b-3d"
    )
    _recipe(train, "training.learning_rate=5e-7")
    train.set_defaults(command=_train)
    about = """Train a recipe on all GPUs of this machine, or of every node of this Slurm job, as its resources.accelerate
says. Example: align launch dpo/llama3-8b resources.accelerate=zero2"""
    launch = commands.add_parser("launch", help="train a recipe on all GPUs there are", description=about)
    _recipe(launch, "resources.accelerate=zero2")
    launch.set_defaults(command=_launch)
    about = """Sample, score, pair, train, evaluate, each stage in a process of its own. Interrupted anywhere, the same command
goes on. Example: align run micro/dice --jobs 2"""
    run = commands.add_parser("run", help="carry a recipe through its stages", description=about)
    _recipe(run, "rounds.count=1")
    run.add_argument("--dry-run", action="store_true", help="check everything that can be checked, print the plan, and stop")
    run.add_argument(
        "--rehearse", nargs="?", const="small", choices=REHEARSALS,
        help="try every stage on a handful of records, with small random models (or `real` ones), in a folder that is thrown away",
    )  # fmt: skip
    run.add_argument("--until", metavar="STAGE", help="stop after this stage, such as round-1/pair")
    run.add_argument("--shard", metavar="I/N", help="do this part of the next stage only: a task of a job array")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="so many variants and seeds side by side (default 1)")
    run.set_defaults(command=_run)
    about = """Write the jobs of a recipe, each to start when the one before is done, and with --submit hand them to Slurm. Example:
align slurm dice/llama3-8b --nodes 2 --submit"""
    slurm = commands.add_parser("slurm", help="write or submit the Slurm jobs of a recipe", description=about)
    _recipe(slurm, "rounds.count=1")
    slurm.add_argument("--nodes", type=int, default=1, help="for training (default 1)")
    slurm.add_argument("--gpus", type=int, default=8, help="of a node; 0: none are asked for (default 8)")
    slurm.add_argument("--shards", type=int, help="sample in an array of so many tasks; left out, the run's own job samples")
    slurm.add_argument("--at-once", type=int, default=16, help="tasks of the array that run at a time (default 16)")
    slurm.add_argument("--submit", action="store_true", help="submit them, too")
    slurm.set_defaults(command=_slurm)
    about = "Say of each stage of a run whether it is done, how far it is and since when it runs. Example: align status runs/mine"
    status = commands.add_parser("status", help="say how far a run is", description=about)
    status.add_argument("folder", type=Path, help="the run's folder, or one with several runs")
    status.add_argument("--json", action="store_true", help="as JSON, for scripts: a list of runs with their stages")
    status.set_defaults(command=_status)
    about = "Say how many hours, how much memory and disk a recipe takes. Example: align estimate dpo/zephyr-7b --gpu h100 --gpus 8"
    estimate = commands.add_parser("estimate", help="say how many hours, how much memory and disk a recipe takes", description=about)
    _recipe(estimate, "rollouts.samples=8")
    estimate.add_argument("--gpu", default="h100", help="a100, h100, h200, l40s, rtx4090 or a10 (default h100)")
    estimate.add_argument("--gpus", type=int, default=8, help="how many (default 8)")
    estimate.add_argument(
        "--prompts",
        type=int,
        default=10000,
        help="prompts, which rounds share out where the recipe says so, or pairs of a training alone (default 10,000)",
    )
    estimate.add_argument("--prompt-tokens", type=int, default=200, help="mean length of a prompt (default 200)")
    estimate.add_argument("--response-tokens", type=int, default=400, help="mean length of a response (default 400)")
    estimate.add_argument("--config", help="a model's config.json or its folder, where the hub cannot be reached")
    estimate.set_defaults(command=_estimate)


def with_default_rehearsal(arguments: Sequence[str]) -> list[str]:
    """A command line in which `--rehearse` takes no other word for its value than those it knows.

    >>> with_default_rehearsal(["run", "--rehearse", "dpo/zephyr-7b"]), with_default_rehearsal(["run", "r", "--rehearse", "real"])
    (['run', '--rehearse=small', 'dpo/zephyr-7b'], ['run', 'r', '--rehearse', 'real'])
    """
    following = [*arguments[1:], ""][: len(arguments)]
    return ["--rehearse=small" if a == "--rehearse" and b not in REHEARSALS else a for a, b in zip(arguments, following, strict=True)]


def _recipe(command: argparse.ArgumentParser, example: str) -> None:
    command.add_argument("recipe", help="a YAML file, or the name of one that comes along (see `align recipes`)")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=f"such as {example}")


def _train(options: argparse.Namespace) -> None:
    from align import plans, recipes
    from align.checks import check
    from align.unused_keys import check_written

    recipe = recipes.load(options.recipe, options.overrides)
    check_written(options.recipe, options.overrides)
    if recipe.method.makes_preferences:
        raise AlignError("this recipe has stages before its training: `align run` carries it through, `align train` cannot")
    for planned in plans.runs_of(recipe):
        check(planned)
    with without_collection():
        from align.experiment import run

    outcomes = run(recipe)
    from align.tables import outcome_table

    show(outcome_table(outcomes))


def _launch(options: argparse.Namespace) -> int:
    from align import recipes
    from align.plans import accelerate_config
    from align.runs import launch

    name = recipes.load(options.recipe, options.overrides).resources.accelerate
    if name is None:
        raise AlignError(f"{options.recipe}: resources.accelerate is missing: name a configuration, such as resources.accelerate=zero3")
    return launch.main(accelerate_config(name), "align.train", [options.recipe, *options.overrides])


def _slurm(options: argparse.Namespace) -> None:
    from align import recipes
    from align.slurm import Machine, jobs_of, submit, write

    recipe = recipes.load(options.recipe, options.overrides)
    machine = Machine(options.nodes, options.gpus, options.shards, options.at_once)
    script = write(jobs_of(recipe, machine), [options.recipe, *options.overrides], Path(recipe.training.get("output_dir") or "runs"))
    if options.submit:
        print(submit(script))
    else:
        print(f"{script}: submit the jobs with `bash {script}`")


def _run(options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise AlignError(f"--jobs {options.jobs}: expected 1 or more")
    from align import plans, recipes
    from align.checks import check
    from align.runs import Shard
    from align.runs.plan import up_to
    from align.tables import outcome_table, plan_table, round_table, suite_tables
    from align.training_check import check_settings
    from align.unused_keys import check_written

    recipe = recipes.load(options.recipe, options.overrides)
    check_written(options.recipe, options.overrides)
    if options.rehearse:
        _rehearse(recipe, options)
        return
    if (checkpoint := recipe.training.get("resume_from_checkpoint")) not in (None, True):
        raise AlignError(f"training.resume_from_checkpoint is {checkpoint!r}: a run goes on from its newest whole checkpoint: leave it out")
    shard = Shard.parse(options.shard) if options.shard else None
    runs = plans.runs_of(recipe)
    for run in runs:
        up_to(run.stages, options.until)
        check(run)
    if options.dry_run:
        for run in runs:
            show(plan_table(run))
            for sentence in check_settings(run.recipe):
                print(sentence)
        return
    from align.summary import first_line, last_line

    lines = lines_of(options, several=options.jobs > 1 and len(runs) > 1)
    for run in runs:
        lines.say(first_line(run))
    with contextlib.closing(lines):
        plans.run_all(runs, until=options.until, shard=shard, jobs=options.jobs, say=lines.say, watcher=lines)
    if any(run.recipe.rounds for run in runs):
        show(round_table(runs))
    for table in suite_tables([run for run in runs if run.recipe.method.makes_preferences]):
        show(table)
    plain = [run for run in runs if not run.recipe.method.makes_preferences]
    if found := plans.outcomes(plain):
        show(outcome_table(found))
    if options.until is None and shard is None:
        report = _write_reports([run.folder.path for run in runs])
        for run in runs:
            if line := last_line(run, report if len(runs) == 1 else run.folder.path / "report.html"):
                print(f"{run.label}: {line}" if len(runs) > 1 else line)


def _rehearse(recipe: Recipe, options: argparse.Namespace) -> None:
    if options.dry_run or options.shard or options.jobs != 1:
        raise AlignError("--rehearse goes with --until alone: a rehearsal is one process after the other, and runs every stage")
    from align.rehearsal import Weights, rehearse

    with contextlib.closing(lines_of(options)) as lines:
        report = rehearse(recipe, Weights(options.rehearse), until=options.until, say=lines.say, watcher=lines)
    print(f"rehearsed: {report.stages} stages in {report.seconds:.0f} s, all of them done. Not as it will be:")
    for sentence in report.replaced:
        print(f"  {sentence}")


def _write_reports(folders: list[Path]) -> Path | None:
    """Write a report into every run's folder, and of several one more above them; returns the last, None where it could not be written.

    A run that is done stays so, whatever becomes of its report.
    """
    from eval.report import write_report
    from eval.report.tracking import track

    places = [([folder], folder / "report.html") for folder in folders]
    if len(folders) > 1:
        places.append((folders, Path(os.path.commonpath(folders)) / "report.html"))
    for some, path in places:
        try:
            write_report(some, path)
            if len(some) == 1:
                track(some[0], path)
        except Exception as error:
            print(f"align: {path} could not be written, or not be handed on ({type(error).__name__}: {error})", file=sys.stderr)
    if len(folders) > 1 and places[-1][1].exists():
        print(f"report: {places[-1][1]}")
    return places[-1][1] if places[-1][1].exists() else None


def _status(options: argparse.Namespace) -> None:
    from align import plans
    from align.tables import plan_rows, plan_table

    runs = [plans.load_run(folder) for folder in plans.run_folders(options.folder)]
    if options.json:
        found = [{"folder": str(run.folder.path), "running": run.folder.is_locked(), "stages": plan_rows(run)} for run in runs]
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for run in runs:
        show(plan_table(run))


def _estimate(options: argparse.Namespace) -> None:
    from align import recipes
    from align.estimate import Workload, check_memory, estimate
    from align.tables import estimate_tables

    workload = Workload(options.gpu, options.gpus, options.prompts, options.prompt_tokens, options.response_tokens)
    recipe = recipes.load(options.recipe, options.overrides)
    found = estimate(recipe, workload, options.config)
    for table in estimate_tables(found):
        show(table)
    check_memory(recipe, found)
