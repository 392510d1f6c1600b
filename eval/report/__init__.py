"""One HTML file that shows what alignment did to a model: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from align.files import write_text
from eval.report import sections
from eval.report.gather import RunData, gather

__all__ = ["Section", "gather", "page", "render", "write_report"]

SECTIONS = (
    ("results", "Results", sections.results),
    ("training", "Training", sections.training),
    ("rounds", "Rounds", sections.rounds),
    ("trees", "Searches", sections.searches),
    ("code", "Programs", sections.code),
    ("samples", "Before and after", sections.samples),
    ("costs", "Costs", sections.costs),
    ("setup", "What was run", sections.setup),
)


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    parts: list[Markup]


def write_report(folders: Sequence[Path], path: Path) -> list[str]:
    """Write the report of one run, or of several side by side.

    Args:
        folders: of runs.
        path: the HTML file.

    Returns:
        What is missing from it, in words; it stands in the report, too.

    Raises:
        AlignError: a folder is no run's.
    """
    runs = [gather(folder) for folder in folders]
    labels = [run.label for run in runs]
    for run in runs:
        if labels.count(run.label) > 1:
            run.label = f"{run.path.parent.name}/{run.label}"
    write_text(path, page(runs))
    return _missing(runs)


def page(runs: Sequence[RunData]) -> str:
    """The report as HTML."""
    found = [Section(id, title, list(make(runs))) for id, title, make in SECTIONS]
    title = f"{runs[0].label}: {runs[0].method}" if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.label for run in runs)}"
    lead = runs[0].recipe.get("description") or ""
    return render(title, lead, [one for one in found if one.parts], _missing(runs))


def render(title: str, lead: str, sections: Sequence[Section], missing: Sequence[str] = ()) -> str:
    """A page that needs no network and no other file.

    Args:
        title: the page's heading.
        lead: the sentence below it.
        sections: its parts.
        missing: what could not be read, in words.
    """
    template = Environment(autoescape=True).from_string(resources.files(__name__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(title=title, lead=lead, missing=missing, sections=sections)


def _missing(runs: Sequence[RunData]) -> list[str]:
    return [f"{run.label}: {one}" if len(runs) > 1 else one for run in runs for one in run.missing]
