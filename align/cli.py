"""The command line: `align train | recipes | schema | show | doctor`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from align.errors import AlignError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. A user's mistake is one sentence on stderr and status 2."""
    options = _parser().parse_args(arguments)
    _quiet_libraries()
    try:
        options.command(options)
    except AlignError as error:
        if options.traceback:
            raise
        print(f"align: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("align: interrupted", file=sys.stderr)
        return 130
    return 0


def _quiet_libraries() -> None:
    """Keep DeepSpeed from announcing on standard output, at every import, that it found no GPU."""
    import torch

    if not torch.cuda.is_available():
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
    commands.add_parser("doctor", help="say what this machine can do").set_defaults(command=_doctor)
    return parser


def _train(options: argparse.Namespace) -> None:
    from align import recipes

    recipe = recipes.load(options.recipe, options.overrides)
    from align.experiment import run

    outcomes = run(recipe)
    from align.tables import outcome_table

    _print(outcome_table(outcomes))


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
