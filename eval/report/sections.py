"""What a report shows of runs, section by section: HTML fragments, none where there is nothing to show."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from markupsafe import Markup, escape

from align.secrets import masked
from align.trees import ROOT, PreferenceTree
from eval.report import charts, frames
from eval.report.gather import RunData

LIMIT = 1500  # characters of a text that are shown
VIEWER = Markup("""<div class="trees"><p><input type="search" class="find" placeholder="search {} trees" aria-label="search trees">
<button type="button" class="all">open all</button> <span class="count"></span></p>{}</div>""")
TREE = Markup('<details class="tree"><summary>{} → <b>{}</b> <span class="{}">{}</span></summary>{}</details>')
NODE = Markup('<li class="{} {}"><code>{}</code> <span class="text">{}</span> <span class="score">{}</span> <i>{}</i>{}</li>')
PAIR = Markup("""<details class="pair"><summary>{}</summary>
<div class="sides"><pre class="chosen">{}</pre><pre class="rejected">{}</pre></div></details>""")


def results(runs: Sequence[RunData]) -> Iterator[Markup]:
    """Every evaluation, with intervals, and what the training changed, tested item by item."""
    rows, spans, values = [], {}, {}
    for run in runs:
        frame = frames.results(run)
        for one in run.evaluations:
            mine = [row for row in frame.rows if row[0] == one.title]
            if not mine:
                continue
            label, (_, _, value, low, high, _) = _name(run, one.title, runs), mine[0]
            form = ".1%" if one.is_share else ".3f"
            shown = f"{low:{form}} to {high:{form}}" if low is not None else ""
            rows.append([label, f"{value:{form}}" if shown else f"{value:.4g}", shown, ", ".join(f"{row[1]} {row[2]:.4g}" for row in mine)])
            if shown or not one.notes:
                values[label] = float(value or 0.0)
            if shown:
                spans[label] = (float(low or 0.0), float(high or 0.0))
    if not rows:
        return
    yield table(["evaluation", "result", "95% interval", "all numbers"], rows)
    if values:
        yield Markup(charts.bars("results", "", values, spans))
    for run in runs:
        for one in run.evaluations:
            for note in one.notes:
                yield Markup('<p class="warning"><b>{}</b>, {}</p>').format(_name(run, one.title, runs), note)
    changes = []
    for run in runs:
        form = "+.1%" if all(one.is_share for one in run.evaluations) else "+.3f"
        for start, end, difference, low, high, p in frames.changes(run).rows:
            names = (_name(run, str(stage), runs) for stage in (start, end))
            changes.append([*names, f"{difference:{form}}", f"{low:{form}} to {high:{form}}", f"{p:.2g}"])
    if changes:
        yield Markup("<p>Item by item, the same questions before and after:</p>")
        yield table(["from", "to", "difference", "95% interval", "p"], changes)


def training(runs: Sequence[RunData]) -> Iterator[Markup]:
    """Loss, margins and gradient norms; the 3D monitor's drifts with its warnings."""
    logs = {_name(run, one.stage, runs): one for run in runs for one in run.trainings}
    for key, title, y in (
        ("loss", "training loss", "loss"), ("rewards/margins", "reward margin", "reward"),
        ("rewards/accuracies", "pairs ranked rightly", "share"), ("grad_norm", "gradient norm", ""),
    ):  # fmt: skip
        series = {name: _curve(one.log, key) for name, one in logs.items()}
        if any(len(xs) for xs, _ in series.values()):
            yield Markup(charts.lines(title, "step", y, {name: points for name, points in series.items() if len(points[0])}))
    for name, one in logs.items():
        drifts = {kind: _curve(one.three_d, f"3d/{kind}_drift") for kind in ("chosen", "rejected", "unseen")}
        if one.three_d:
            yield Markup(charts.lines(f"3D monitor, {name}", "step", "change of log π, nats", drifts))
    for name, one in logs.items():
        for finding in one.findings:
            yield Markup('<p class="warning"><b>{}</b>, {}</p>').format(name, finding)


def _curve(log: Sequence[dict[str, Any]], key: str) -> charts.Points:
    entries = [(float(entry["step"]), float(entry[key])) for entry in log if key in entry and "step" in entry]
    return [step for step, _ in entries], [value for _, value in entries]


def rounds(runs: Sequence[RunData]) -> Iterator[Markup]:
    """DICE: statistics, scores and lengths of every round."""
    for run in runs:
        if not run.rounds:
            continue
        frame = frames.rounds(run)
        yield table(frame.columns, [[_name(run, str(row[0]), runs), *map(_number, row[1:])] for row in frame.rows])
        scores = {one.name: one.scores for one in run.rounds if one.scores}
        if scores:
            yield Markup(charts.histograms(f"shaped rewards, {run.label}", "r̂ − α·length", scores))
        for one in run.rounds:
            if one.chosen_lengths:
                lengths = {"chosen": one.chosen_lengths, "rejected": one.rejected_lengths}
                yield Markup(charts.histograms(f"lengths of pairs, {_name(run, one.name, runs)}", "tokens", lengths))


def searches(runs: Sequence[RunData]) -> Iterator[Markup]:
    """CPO: the trees, to be opened and searched; kept paths, values, edges."""
    for run in runs:
        if run.searches:
            yield VIEWER.format(len(run.searches), Markup("").join(_tree(tree) for tree in run.searches))


def _tree(tree: PreferenceTree) -> Markup:
    search = tree.metadata.get("search", {})
    kept = {node for leaf in search.get("kept", []) for node in tree.path(leaf)}
    question = " / ".join(search.get("question", {}).values()) or str(tree.prompt)
    right = {True: "right", False: "wrong"}.get(search.get("right"), "")
    return TREE.format(_cut(question), search.get("answer", ""), right, right, _children(tree, ROOT, kept))


def _children(tree: PreferenceTree, parent: int, kept: set[int]) -> Markup:
    items = Markup("")
    for place, node in enumerate(tree.nodes):
        if node.parent != parent:
            continue
        beats = [edge.rejected for edge in tree.edges if edge.chosen == place]
        loses = any(edge.rejected == place for edge in tree.edges)
        mark = "chosen" if beats else "rejected" if loses else ""
        score = "" if node.score is None else f"{node.score:g}"
        note = f"beats {', '.join(map(str, beats))}" if beats else ""
        below = _children(tree, place, kept)
        items += NODE.format(mark, "kept" if place in kept else "", place, _cut(str(node.text).rstrip("\n")), score, note, below)
    return Markup("<ul>{}</ul>").format(items) if items else Markup("")


def code(runs: Sequence[RunData]) -> Iterator[Markup]:
    """Verdicts, and pairs of programs side by side with the lines that differ."""
    for run in runs:
        if run.verdicts:
            frame = frames.verdicts(run)
            yield table(frame.columns, [[name, str(count), f"{share:.1%}"] for name, count, share in frame.rows])
            yield Markup(charts.bars(f"verdicts, {run.label}", "programs", {name: float(n) for name, n in run.verdicts.items()}))
        for pair in run.programs:
            left, right = _differing(str(pair.get("chosen", "")), str(pair.get("rejected", "")))
            yield PAIR.format(_cut(str(pair.get("prompt", ""))), left, right)


def _differing(first: str, second: str) -> tuple[Markup, Markup]:
    """Two texts with the lines marked that the other does not have."""
    lines = first.splitlines(), second.splitlines()
    sides: tuple[list[Markup], list[Markup]] = ([], [])
    for kind, a, b, c, d in difflib.SequenceMatcher(None, *lines, autojunk=False).get_opcodes():
        for side, part in zip(sides, (lines[0][a:b], lines[1][c:d]), strict=True):
            side.extend(escape(line) if kind == "equal" else Markup("<mark>{}</mark>").format(line) for line in part)
    return Markup("\n").join(sides[0]), Markup("\n").join(sides[1])


def samples(runs: Sequence[RunData]) -> Iterator[Markup]:
    """The same questions before and after: those that became right or wrong first."""
    for run in runs:
        frame = frames.samples(run)
        if frame.rows:
            _, before, _, after, _ = frame.columns
            rows = [[_cut(str(q)), _answer(first, was), _answer(second, now)] for q, first, was, second, now in frame.rows]
            yield table([f"question ({run.label})", before, after], rows)


def _answer(response: object, grade: object) -> Markup:
    """A response, marked by its grade if it has one."""
    mark = "" if not isinstance(grade, float) else "chosen" if grade > 0 else "rejected"
    return Markup('<pre class="{}">{}</pre>').format(mark, _cut(str(response)))


def costs(runs: Sequence[RunData]) -> Iterator[Markup]:
    """Seconds and memory of every stage, tokens where they are counted."""
    rows = []
    for run in runs:
        rows += [[_name(run, str(row[0]), runs), *map(_number, row[1:])] for row in frames.costs(run).rows]
        rows.append([f"{run.label}, in all", _number(sum(m["seconds"] for m in run.stages.values())), "", "", ""])
    if any(run.stages for run in runs):
        yield table(frames.costs(runs[0]).columns, rows)


def _number(value: object) -> str:
    """A number as it is read: four digits that count, thousands set apart.

    >>> _number(None), _number(19060), _number(0.079567), _number(231.4)
    ('', '19,060', '0.07957', '231.4')
    """
    if not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def setup(runs: Sequence[RunData]) -> Iterator[Markup]:
    """What was run: recipe, inputs, versions."""
    for run in runs:
        last = next(reversed(run.stages.values()), {})
        finished, commit = last.get("finished", "not yet"), last.get("commit") or "unknown"
        facts = {"method": run.method, "folder": str(run.path), "finished": finished, "commit": commit}
        facts |= {"python": last.get("python", "unknown"), **(last.get("versions") or {})}
        yield table([run.label, ""], [[key, str(value)] for key, value in facts.items()])
        text = masked(yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True))
        yield Markup("<details><summary>recipe</summary><pre>{}</pre></details>").format(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table that scrolls on its own where it is too wide."""
    head = Markup("").join(Markup("<th>{}</th>").format(one) for one in heads)
    cells = (Markup("").join(_cell(one) for one in row) for row in rows)
    body = Markup("").join(Markup("<tr>{}</tr>").format(row) for row in cells)
    return Markup('<div class="wide"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(head, body)


def _cell(content: object) -> Markup:
    short = not isinstance(content, Markup) and len(str(content)) < 28
    return Markup("<td{}>{}</td>").format(Markup(' class="short"') if short else "", content)


def _name(run: RunData, stage: str, runs: Sequence[RunData]) -> str:
    return f"{run.label}: {stage}" if len(runs) > 1 else stage


def _cut(text: str) -> str:
    return text if len(text) <= LIMIT else text[:LIMIT] + " …"
