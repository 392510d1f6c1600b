"""`align list [KIND]`: what can be named in recipes and on the command line, a sentence each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import align
from align.cli.terminal import show
from align.registry import Registry, registered_in

Rows = Iterator[tuple[str, str]]


def add(commands: Any) -> None:
    """Add this command to a parser's."""
    about = """List what can be named: losses, scorers, judges, … Without a kind, the kinds, and where a recipe names them.
Example: align list scorers"""
    listing = commands.add_parser("list", help="list losses, scorers, judges and what else recipes name", description=about)
    listing.add_argument("kind", nargs="?", choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    listing.add_argument("--json", action="store_true", help="as JSON, for scripts: each name with its sentence")
    listing.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(dict(_rows(options.kind)), indent=1, ensure_ascii=False))
    else:
        show_names(options.kind)


def show_names(kind: str | None) -> None:
    """Print what there is of a kind, a sentence each; without one, the kinds and where they are named."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("kind", "where it is named", box=None) if kind is None else Table("name", "what it is", box=None)
    for name, sentence in _rows(kind):
        table.add_row(escape(name), escape(sentence))
    show(table)


def _rows(kind: str | None) -> Rows:
    return ((each, where) for each, (where, _) in KINDS.items()) if kind is None else KINDS[kind][1]()


def _of(registry: Registry[Any]) -> Rows:
    return ((name, registry.sentence(name)) for name in sorted(registry))


def _losses() -> Rows:
    for module in ("pairwise", "pointwise", "reference_free"):
        yield from sorted(registered_in(Path(align.__file__).parent / "losses" / f"{module}.py", "register").items())
    yield "selm", "`sigmoid` on edges and `optimism` on leaves without one. [SELM, arXiv 2405.19332]"


def _scorers() -> Rows:
    from align.rewards.scorers import SCORERS

    return _of(SCORERS)


def _pairings() -> Rows:
    from align.rewards.pairing import PAIRINGS

    return _of(PAIRINGS)


def _code_pairings() -> Rows:
    from data_pipelines.code_execution.edges import POLICIES

    return _of(POLICIES)


def _judges() -> Rows:
    from align.rewards.scorers import SCORERS
    from data_pipelines.thought_trees.judges import JUDGES

    yield from _of(JUDGES)
    yield from ((name, sentence) for name, sentence in _of(SCORERS) if name not in JUDGES and name != "llm")


def _graders() -> Rows:
    from data_pipelines.thought_trees.graders import GRADERS

    return _of(GRADERS)


def _engines() -> Rows:
    from data_pipelines.rollouts.engines import ENGINES

    return ((name, sentence) for name, sentence in _of(ENGINES) if name != "scripted")


def _tasks() -> Rows:
    from data_pipelines.thought_trees.tasks import available_tasks, description_of

    return ((name, description_of(name)) for name in available_tasks())


def _suites() -> Rows:
    from align.recipes.measures import INSTRUCTIONS, PROGRAMS
    from data_pipelines.benchmarks import HUB

    for name in sorted({*HUB, *PROGRAMS, INSTRUCTIONS}):
        data, split = HUB.get(name, ("your own data", ""))
        yield name, f"{data} {split}".strip()
    yield "lm:TASK", "any task of lm-evaluation-harness"


KINDS: dict[str, tuple[str, Callable[[], Rows]]] = {
    "losses": ("training.loss_type; or module:function, its hyperparameters in training.loss_kwargs", _losses),
    "scorers": ("rounds.scorers; or module:class", _scorers),
    "pairings": ("rounds.pairing; or module:function", _pairings),
    "code-pairings": ("code.pairing; or module:function", _code_pairings),
    "judges": ("thoughts.judge; or module:class", _judges),
    "graders": ("`grader` of a task; or module:class", _graders),
    "engines": ("rollouts.engine, --engine", _engines),
    "tasks": ("thoughts.task, rounds.questions, measure, --suite; or a YAML file", _tasks),
    "suites": ("measure, --suite; tasks, too", _suites),
}
"""Kind → where a recipe or a command names it, and what there is."""
