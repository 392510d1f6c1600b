"""What the command line draws: trees, and the outcome of a training."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from align.trees import ROOT, PreferenceTree

if TYPE_CHECKING:
    from align.experiment import Outcome


def draw_tree(tree: PreferenceTree, width: int = 100) -> Tree:
    """A tree for the terminal: + and − mark what is preferred and what is not, with scores and edges.

    Args:
        tree: to be drawn.
        width: characters of a node's text to show.
    """
    better = {edge.chosen for edge in tree.edges}
    worse = {edge.rejected for edge in tree.edges}
    drawn = Tree(f"[bold]{_short(tree.prompt, width)}[/]")
    branches = {ROOT: drawn}
    for index, node in enumerate(tree.nodes):
        mark = "[yellow]±[/]" if index in better & worse else "[green]+[/]" if index in better else "[red]−[/]" if index in worse else "·"
        score = f" [cyan]{node.score:g}[/]" if node.score is not None else ""
        beats = sorted(edge.rejected for edge in tree.edges if edge.chosen == index)
        edges = f" [dim]beats {', '.join(map(str, beats))}[/]" if beats else ""
        branches[index] = branches[node.parent].add(f"{mark} [dim]{index}[/] {_short(node.text, width)}{score}{edges}")
    return drawn


def _short(text: object, width: int) -> str:
    plain = text if isinstance(text, str) else " / ".join(f"{m['role']}: {m.get('content') or ''}" for m in text)  # type: ignore[attr-defined]
    plain = plain.replace("\n", "⏎")
    return escape(plain if len(plain) <= width else plain[: width - 1] + "…")


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """One line a variant: accuracy before and after (mean and each seed), and the drifts of the 3D monitor."""
    table = Table(
        title="before and after, mean over seeds (nats a response; drift from the start of training)", title_justify="left", box=None
    )
    for column in ("run", "seeds", "accuracy before", "after", "better than start", "chosen drift", "rejected drift", "unseen drift"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.name == name]
        before = [o.before for o in mine if o.before is not None]
        after = [o.after for o in mine if o.after is not None]
        wins = sum(a > b for a, b in zip(after, before, strict=True))
        drifts = [mean(o.three_d.get(f"3d/{kind}_drift", float("nan")) for o in mine) for kind in ("chosen", "rejected", "unseen")]
        cells = [f"{mean(before):.1%}", f"{mean(after):.1%}", f"{wins} of {len(mine)}"] if before else ["", "", ""]
        table.add_row(name, str(len(mine)), *cells, *(f"{drift:+.2f}" for drift in drifts))
    return table
