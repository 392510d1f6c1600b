"""The command line: `align train | launch | run | slurm | status | estimate | recipes | schema | show | import-search | exec | doctor`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from align.errors import AlignError
from align.runs.driver import InterruptedRunError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. A user's mistake is one sentence on stderr and status 2."""
    options = parse(arguments)
    _quiet_libraries()
    try:
        status = options.command(options)
    except AlignError as error:
        if options.traceback:
            raise
        print(f"align: {error}", file=sys.stderr)
        return 128 + signal.SIGTERM if isinstance(error, InterruptedRunError) else 2
    except KeyboardInterrupt:
        print("align: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status or 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `key=value` may stand before and after options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _quiet_libraries() -> None:
    """Keep DeepSpeed from announcing on standard output, at every import, that it found no GPU."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="align", description="Preference alignment on token trees.")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a recipe", description="Train a recipe; every variant, every seed.")
    train.add_argument("recipe", help="a YAML file, or the name of one that comes along (see `align recipes`)")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as training.learning_rate=5e-7")
    train.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    train.set_defaults(command=_train)
    about = "Train a recipe on all GPUs of this machine, or of every node of this Slurm job, as its resources.accelerate says."
    launch = commands.add_parser("launch", help="train a recipe on all GPUs there are", description=about)
    launch.add_argument("recipe", help="a YAML file, or the name of one that comes along (see `align recipes`)")
    launch.add_argument("overrides", nargs="*", metavar="key=value", help="such as resources.accelerate=zero2")
    launch.set_defaults(command=_launch)
    about = "Sample, score, pair, train, evaluate, each stage in a process of its own. Interrupted anywhere, the same command goes on."
    run = commands.add_parser("run", help="carry a recipe through its stages", description=about)
    run.add_argument("recipe", help="a YAML file, or the name of one that comes along (see `align recipes`)")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="such as rounds.count=1")
    run.add_argument("--dry-run", action="store_true", help="check everything that can be checked, print the plan, and stop")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage, such as round-1/pair")
    run.add_argument("--shard", metavar="I/N", help="do this part of the next stage only: a task of a job array")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="so many variants and seeds side by side (default 1)")
    run.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    run.set_defaults(command=_run)
    about = "Write the jobs of a recipe, each to start when the one before is done, and with --submit hand them to Slurm."
    slurm = commands.add_parser("slurm", help="write or submit the Slurm jobs of a recipe", description=about)
    slurm.add_argument("recipe", help="a YAML file, or the name of one that comes along (see `align recipes`)")
    slurm.add_argument("overrides", nargs="*", metavar="key=value", help="such as rounds.count=1")
    slurm.add_argument("--nodes", type=int, default=1, help="for training (default 1)")
    slurm.add_argument("--gpus", type=int, default=8, help="of a node; 0: none are asked for (default 8)")
    slurm.add_argument("--shards", type=int, help="sample in an array of so many tasks; left out, the run's own job samples")
    slurm.add_argument("--at-once", type=int, default=16, help="tasks of the array that run at a time (default 16)")
    slurm.add_argument("--submit", action="store_true", help="submit them, too")
    slurm.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    slurm.set_defaults(command=_slurm)
    status = commands.add_parser("status", help="say how far a run is")
    status.add_argument("folder", type=Path, help="the run's folder, or one with several runs")
    status.set_defaults(command=_status)
    estimate = commands.add_parser("estimate", help="say how many hours, how much memory and disk a recipe takes")
    estimate.add_argument("recipe", help="a YAML file, or the name of one that comes along")
    estimate.add_argument("overrides", nargs="*", metavar="key=value")
    estimate.add_argument("--gpu", default="h100", help="a100, h100, h200, l40s, rtx4090 or a10 (default h100)")
    estimate.add_argument("--gpus", type=int, default=8, help="how many (default 8)")
    estimate.add_argument("--prompts", type=int, default=10000, help="prompts, or pairs of a training alone (default 10,000)")
    estimate.add_argument("--prompt-tokens", type=int, default=200, help="mean length of a prompt (default 200)")
    estimate.add_argument("--response-tokens", type=int, default=400, help="mean length of a response (default 400)")
    estimate.add_argument("--config", help="a model's config.json or its folder, where the hub cannot be reached")
    estimate.set_defaults(command=_estimate)
    commands.add_parser("recipes", help="list the recipes that come along").set_defaults(command=_recipes)
    schema = commands.add_parser("schema", help="write the JSON Schema of recipes, for editors")
    schema.add_argument("file", type=Path)
    schema.set_defaults(command=_schema)
    show = commands.add_parser("show", help="draw preference trees in the terminal")
    show.add_argument("data", help="a .jsonl or .parquet file, or a data set on the hub")
    show.add_argument("--split", default="train")
    show.add_argument("--first", type=int, default=3, help="how many trees (default 3)")
    show.add_argument("--width", type=int, default=100, help="characters of a node's text to show")
    show.set_defaults(command=_show)
    about = "Turn a log of princeton-nlp/tree-of-thought-llm into preference trees; the whole searches go to TREES.searches.jsonl."
    log = commands.add_parser("import-search", help="turn a tree-of-thought log into preference trees", description=about)
    log.add_argument("log", help="the log, a JSON list of searches")
    log.add_argument("trees", type=Path, help="the .jsonl or .parquet file to write, for `data.train`")
    log.add_argument("--task", default="game24", help="the task that was searched, or a YAML file of your own (default game24)")
    log.add_argument("--keep", choices=["answers", "selected"], default="answers", help="the paths that count as good (default answers)")
    log.set_defaults(command=_import_search)
    about = "Run a program against tests in the sandbox. Exit status: 0 it passes, 1 it does not, 2 nothing could be run."
    execute = commands.add_parser("exec", help="run a program against tests in the sandbox", description=about)
    execute.add_argument("program", type=Path, help="a Python file")
    execute.add_argument("--tests", type=Path, required=True, help=".py with assertions, or .json with calls or outputs (docs: own format)")
    execute.add_argument("--entry-point", help="the function that is tested, where the tests are .json with calls")
    execute.add_argument("--isolation", default="best-available", help="require-strong, best-available (default) or limits-only")
    execute.add_argument("--python", help="the interpreter that runs the program (default: this one, without its packages)")
    execute.add_argument("--seconds", type=float, default=10.0, help="wall clock (default 10)")
    execute.add_argument("--memory-gb", type=float, default=1.0, help="address space (default 1)")
    execute.set_defaults(command=_exec)
    commands.add_parser("doctor", help="say what this machine can do").set_defaults(command=_doctor)
    return parser


def _train(options: argparse.Namespace) -> None:
    from align import recipes

    recipe = recipes.load(options.recipe, options.overrides)
    from align.experiment import run

    outcomes = run(recipe)
    from align.tables import outcome_table

    _print(outcome_table(outcomes))


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
    from align import plans, recipes
    from align.checks import check
    from align.runs import Shard
    from align.tables import chain_table, code_table, plan_table, round_table

    if options.traceback:
        os.environ["ALIGN_TRACEBACK"] = "1"
    runs = plans.runs_of(recipes.load(options.recipe, options.overrides))
    for run in runs:
        check(run)
    if options.dry_run:
        for run in runs:
            _print(plan_table(run))
        return
    shard = Shard.parse(options.shard) if options.shard else None
    plans.run_all(runs, until=options.until, shard=shard, jobs=options.jobs, say=lambda line: print(line, flush=True))
    if any(run.recipe.rounds for run in runs):
        _print(round_table(runs))
    if any(run.recipe.thoughts and plans.before_and_after(run) for run in runs):
        _print(chain_table(runs))
    if any(run.recipe.code and plans.before_and_after(run) for run in runs):
        _print(code_table(runs))


def _status(options: argparse.Namespace) -> None:
    from align import plans
    from align.tables import plan_table

    for folder in plans.run_folders(options.folder):
        _print(plan_table(plans.load_run(folder)))


def _estimate(options: argparse.Namespace) -> None:
    from align import recipes
    from align.estimate import Workload, check_memory, estimate
    from align.tables import estimate_tables

    workload = Workload(options.gpu, options.gpus, options.prompts, options.prompt_tokens, options.response_tokens)
    recipe = recipes.load(options.recipe, options.overrides)
    found = estimate(recipe, workload, options.config)
    for table in estimate_tables(found):
        _print(table)
    check_memory(recipe, found)


def _recipes(options: argparse.Namespace) -> None:
    from rich.table import Table

    from align import recipes

    table = Table("recipe", "what it does", box=None)
    for name, description in recipes.available():
        table.add_row(name, description)
    _print(table)


def _schema(options: argparse.Namespace) -> None:
    from align.recipes import json_schema

    options.file.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")


def _show(options: argparse.Namespace) -> None:
    from align.tables import draw_tree
    from align.trees import read_trees

    trees, rejected = read_trees(options.data, options.split)
    for tree in trees[: options.first]:
        _print(draw_tree(tree, options.width))
    nodes, edges = sum(len(tree.nodes) for tree in trees), sum(len(tree.edges) for tree in trees)
    print(f"{Path(options.data).name}: {len(trees)} {'tree' if len(trees) == 1 else 'trees'}, {nodes} nodes, {edges} edges.")
    if rejected:
        first, total = rejected[0], len(trees) + len(rejected)
        raise AlignError(f"{first.where}: {first.reason} ({len(rejected)} of {total} records are unusable)")


def _import_search(options: argparse.Namespace) -> None:
    from align.trees import only_trained, write_trees
    from data_pipelines.thought_trees.edges import EdgeRules, with_step_edges
    from data_pipelines.thought_trees.logs import read_tot_log
    from data_pipelines.thought_trees.tasks import load_task

    found, rejected = read_tot_log(options.log, load_task(options.task), options.keep)
    trees = [with_step_edges(tree, EdgeRules()) for tree in found]
    trained = [only_trained(tree) for tree in trees if tree.edges]
    write_trees(trees, options.trees.with_suffix(".searches.jsonl"))
    write_trees(trained, options.trees)
    print(f"{options.trees}: {len(trained)} trees, {sum(len(tree.edges) for tree in trained)} edges; {len(rejected)} searches left out.")
    for reason, count in Counter(one.reason for one in rejected).items():
        print(f"{count} × {reason}", file=sys.stderr)


def _exec(options: argparse.Namespace) -> int:
    from align.tables import execution_table
    from data_pipelines.code_execution.files import read_program, read_tests
    from data_pipelines.code_execution.sandbox import Limits, Sandbox

    tests = read_tests(options.tests, options.entry_point)
    program = read_program(options.program)
    limits = Limits(seconds=options.seconds, memory=int(options.memory_gb * (1 << 30)))
    with Sandbox(options.isolation, 1, python=options.python) as sandbox:
        result = sandbox.run(program, tests, limits)
    for part in execution_table(result):
        _print(part)
    return 0 if result.passed else 1


def _doctor(options: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from align.doctor import report

    table = Table(box=None, show_header=False)
    for name, good, sentence in report():
        table.add_row("[green]ok[/]" if good else "[red]no[/]", name, escape(sentence))
    _print(table)


def _print(what: object) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(what)


if __name__ == "__main__":
    sys.exit(main())
