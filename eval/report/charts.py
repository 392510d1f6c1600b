"""Charts as SVG text, drawn by matplotlib: nothing to load when the page is opened."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from cycler import cycler
from markupsafe import escape

from align.files import writable

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0e7490", "#be123c", "#475569")
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "align", "font.family": "sans-serif", "font.size": 9.0, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e7eb", "axes.edgecolor": "#9ca3af",
    "axes.prop_cycle": cycler(color=COLOURS),
}  # fmt: skip
LONGEST = 40  # characters of a name in a chart
Points = tuple[Sequence[float], Sequence[float]]


def lines(title: str, x: str, y: str, series: Mapping[str, Points], log: bool = False) -> str:
    """A line for each series.

    Args:
        title: of the chart.
        x: the horizontal axis' label.
        y: the vertical axis' label.
        series: name → (xs, ys).
        log: the y axis in powers of ten.
    """

    def draw(axes: Axes) -> None:
        for name, (xs, ys) in series.items():
            axes.plot(xs, ys, label=drawable(name), linewidth=1.6, marker="o" if len(xs) < 12 else None, markersize=3)
        if log:
            axes.set_yscale("log")

    return _svg(title, x, y, draw, len(series) > 1)


def histograms(title: str, x: str, series: Mapping[str, Sequence[float]]) -> str:
    """Outlined histograms on the same bins."""

    def draw(axes: Axes) -> None:
        values = [value for one in series.values() for value in one]
        low, high = min(values), max(values)
        bins = [low + (high - low or 1.0) * step / 40 for step in range(41)]
        for name, one in series.items():
            axes.hist(one, bins=bins, histtype="step", linewidth=1.6, label=drawable(name))

    return _svg(title, x, "count", draw, len(series) > 1)


def bars(title: str, x: str, values: Mapping[str, float], spans: Mapping[str, tuple[float, float]] | None = None) -> str:
    """Horizontal bars, with intervals where there are any."""
    names = list(values)[::-1]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(names)), [values[name] for name in names], color=COLOURS[0], height=0.6)
        axes.set_yticks(range(len(names)), [drawable(name) for name in names])
        for place, name in enumerate(names):
            if spans and name in spans:
                axes.plot(spans[name], (place, place), color="#111827", linewidth=1.6)
        axes.grid(axis="y", visible=False)

    return _svg(title, x, "", draw, False, height=0.8 + 0.32 * len(names))


def drawable(text: str) -> str:
    r"""A text as matplotlib draws it as it stands: one line, not too long, without formulas, and no name that it takes for hidden.

    >>> drawable("_a $x$\n" + "b" * 99)
    ' _a \\$x\\$ bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…'
    """
    text = " ".join("".join(character if character.isprintable() else " " for character in writable(text)).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _svg(title: str, x: str, y: str, draw: Callable[[Axes], None], legend: bool, height: float = 2.8) -> str:
    with plt.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # whoever opens the page has the font
        figure, axes = plt.subplots(figsize=(4.8, height), layout="constrained")
        draw(axes)
        axes.set(title=drawable(title), xlabel=x, ylabel=y)
        if legend:
            axes.legend(frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = out.getvalue()
    svg = text[text.index("<svg") :]
    label = escape(" ".join(writable(title).split()))
    opening = f'<svg class="chart" role="img" aria-label="{label}" viewBox="'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', lambda found: f'{opening}{found[1]}">', svg, count=1)
