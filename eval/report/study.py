"""The toy study of the 3D-properties as a page of curves, or as their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from align.diagnostics.study import SCENARIOS, Curves, summary
from align.files import write_text
from align.trees import write_jsonl
from eval.report import Section, charts, render
from eval.report.sections import table

LEAD = "DPO and its regularizers on policies of ten responses (arXiv 2406.07327): drastic drop, degradation, dispersion."
CHARTS = (
    ("chosen", "probability of the chosen response", False), ("rejected", "probability of the rejected response", True),
    ("unseen", "probability of unseen responses", False), ("chosen_gradient", "gradient norm |∂L/∂p⁺|", True),
    ("rejected_gradient", "gradient norm |∂L/∂p⁻|", True),
)  # fmt: skip
"""What is drawn: a field of `Curves`, its title, whether in powers of ten."""


def write_study(curves: Sequence[Curves], path: Path) -> None:
    """Write the curves: to `.html`, one page that needs no network; else as JSONL, every step's numbers of a scenario and method a line."""
    if path.suffix == ".html":
        columns, *lines = summary(curves)
        first = Section("properties", "The properties at the end of training", [table(columns, lines)])
        write_text(path, render("A study of the 3D-properties", LEAD, [first, *(_section(curves, scenario) for scenario in SCENARIOS)]))
    else:
        names = [name for name in Curves.__dataclass_fields__ if name not in ("scenario", "method")]
        records = [{"scenario": c.scenario, "method": c.method, **{name: getattr(c, name).tolist() for name in names}} for c in curves]
        write_jsonl(records, path)


def _section(curves: Sequence[Curves], scenario: tuple[str, str]) -> Section:
    """One scenario's charts, a line a method."""
    chosen, rejected = scenario
    mine = [one for one in curves if one.scenario == scenario]
    parts = []
    for field, title, log in CHARTS:
        series = {one.method: (range(len(one.chosen)), getattr(one, field).tolist()) for one in mine}
        parts.append(Markup(charts.lines(title, "step", "", series, log=log)))
    return Section(f"{chosen}-{rejected}", f"Chosen {chosen}-policy, rejected {rejected}-policy", parts)
