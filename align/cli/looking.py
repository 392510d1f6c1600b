"""`align recipes | schema | show | import-search | exec | doctor`: looking at what is there."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from align.cli.own_data import show_as_model_sees
from align.cli.terminal import show
from align.errors import AlignError


def add(commands: Any) -> None:
    """Add these commands to a parser's."""
    about = "List the recipes that come along, with what each does. Example: align recipes"
    recipes = commands.add_parser("recipes", help="list the recipes that come along", description=about)
    recipes.add_argument("--json", action="store_true", help="as JSON, for scripts: each name with what it does")
    recipes.set_defaults(command=_recipes)
    about = "Write the JSON Schema of recipes, by which editors complete and check them. Example: align schema recipe.schema.json"
    schema = commands.add_parser("schema", help="write the JSON Schema of recipes, for editors", description=about)
    schema.add_argument("file", type=Path, help="the file to write")
    schema.set_defaults(command=_schema)
    about = "Draw preference trees in the terminal, or print what a recipe's model sees of its data. Example: align show trees.jsonl"
    trees = commands.add_parser("show", help="draw preference trees in the terminal", description=about)
    trees.add_argument(
        "data",
        help="a .jsonl or .parquet file, a data set on the hub, or a journal of samples or searches in a run's folder; "
        "with --as-model-sees a recipe",
    )
    trees.add_argument("--split", default="train")
    trees.add_argument("--first", type=int, default=3, help="how many trees (default 3)")
    trees.add_argument("--width", type=int, default=100, help="characters of a node's text to show")
    about = "print the first records of a recipe's data as the model gets them: template, tokens, and what is trained"
    trees.add_argument("--as-model-sees", action="store_const", dest="command", const=show_as_model_sees, default=_show, help=about)
    trees.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="with --as-model-sees: of the recipe")
    about = """Turn a log of princeton-nlp/tree-of-thought-llm into preference trees; the whole searches go to
TREES.searches.jsonl. Example: align import-search log.json trees.jsonl"""
    log = commands.add_parser("import-search", help="turn a tree-of-thought log into preference trees", description=about)
    log.add_argument("log", help="the log, a JSON list of searches")
    log.add_argument("trees", type=Path, help="the .jsonl or .parquet file to write, for `data.train`")
    log.add_argument("--task", default="game24", help="the task that was searched, or a YAML file of your own (default game24)")
    log.add_argument("--keep", choices=["answers", "selected"], default="answers", help="the paths that count as good (default answers)")
    log.set_defaults(command=_import_search)
    about = """Run a program against tests in the sandbox. Exit status: 0 it passes, 1 it does not, 2 nothing could be run.
Example: align exec program.py --tests tests.py"""
    execute = commands.add_parser("exec", help="run a program against tests in the sandbox", description=about)
    execute.add_argument("program", type=Path, help="a Python file")
    execute.add_argument("--tests", type=Path, required=True, help=".py with assertions, or .json with calls or outputs (docs: own format)")
    execute.add_argument("--entry-point", help="the function that is tested, where the tests are .json with calls")
    execute.add_argument("--isolation", default="best-available", help="require-strong, best-available (default) or limits-only")
    execute.add_argument("--python", help="the interpreter that runs the program (default: this one, without its packages)")
    execute.add_argument("--seconds", type=float, default=10.0, help="CPU time (default 10)")
    execute.add_argument("--memory-gb", type=float, default=1.0, help="address space (default 1)")
    execute.add_argument("--packages", nargs="+", default=[], help="installed packages that the program and its tests may import")
    about = "of expected numbers with a fraction (default 1e-6; 0: exact)"
    execute.add_argument("--tolerance", type=float, default=1e-6, help=about)
    execute.set_defaults(command=_exec)
    about = "Say what this machine can do: libraries, GPUs, memory, disk, the sandbox. Example: align doctor"
    commands.add_parser("doctor", help="say what this machine can do", description=about).set_defaults(command=_doctor)


def _recipes(options: argparse.Namespace) -> None:
    from align import recipes

    if options.json:
        print(json.dumps(dict(recipes.available()), indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("recipe", "what it does", box=None)
    for name, description in recipes.available():
        table.add_row(name, description)
    show(table)


def _schema(options: argparse.Namespace) -> None:
    from align.recipes import json_schema

    options.file.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")


def _show(options: argparse.Namespace) -> None:
    from align.runs import read_journal
    from align.tables import draw_tree
    from align.trees import Rejected, from_record, read_trees

    for option, number, least in (("--first", options.first, 0), ("--width", options.width, 10)):
        if number < least:
            raise AlignError(f"{option} {number}: expected {least} or more")
    if options.overrides:
        raise AlignError(f"{options.overrides[0]}: overrides are of a recipe, which --as-model-sees shows")
    rejected: list[Rejected] = []
    if any(Path(options.data).glob("part-*.jsonl")):  # a journal of samples or of searches
        records = [record.get("tree", record) for _, record in sorted(read_journal(Path(options.data)).items()) if "reason" not in record]
        trees = [from_record(record) for record in records if "prompt" in record]
    else:
        trees, rejected = read_trees(options.data, options.split)
    for tree in trees[: options.first]:
        show(draw_tree(tree, options.width))
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
    aside = options.trees.with_suffix(".set-aside.jsonl")
    lines = [json.dumps({"where": one.where, "reason": one.reason, "record": one.record}) + "\n" for one in rejected]
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text("".join(lines), encoding="utf-8")  # in ASCII: a record may hold text that UTF-8 cannot
    for reason, count in Counter(one.reason for one in rejected).items():
        print(f"{count} × {reason}", file=sys.stderr)
    if not trained:
        raise AlignError(f"{options.log}: no preference can be made of its {len(found) + len(rejected)} searches; see {aside}")
    write_trees(trees, options.trees.with_suffix(".searches.jsonl"))
    write_trees(trained, options.trees)
    edges = sum(len(tree.edges) for tree in trained)
    print(f"{options.trees}: {len(trained)} trees, {edges} edges; {len(rejected)} searches set aside ({aside}).")


def _exec(options: argparse.Namespace) -> int:
    from align.tables import execution_table
    from data_pipelines.code_execution.files import read_program, read_tests
    from data_pipelines.code_execution.sandbox import Limits, Sandbox

    tests = read_tests(options.tests, options.entry_point)
    program = read_program(options.program)
    limits = Limits(seconds=options.seconds, memory=int(options.memory_gb * (1 << 30)))
    settings = {"python": options.python, "packages": options.packages, "tolerance": options.tolerance}
    with Sandbox(options.isolation, 1, **settings) as sandbox:
        result = sandbox.run(program, tests, limits)
    for part in execution_table(result):
        show(part)
    return 0 if result.passed else 1


def _doctor(options: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from align.doctor import report

    table = Table(box=None, show_header=False)
    for name, good, sentence in report():
        table.add_row("[green]ok[/]" if good else "[red]no[/]", name, escape(sentence))
    show(table)
