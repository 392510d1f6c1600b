"""What a report shows of runs, section by section: HTML fragments, none where there is nothing to show."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import yaml
from markupsafe import Markup, escape

from align.trees import ROOT, PreferenceTree
from eval.intervals import compare, interval
from eval.report import charts
from eval.report.gather import Evaluation, RunData

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
        for one in run.evaluations:
            label = f"{run.label}: {one.stage}" if len(runs) > 1 else one.stage
            first = next(iter(one.metrics), "")
            found = interval(list(one.items.values())) if one.items else None
            shown = f"{found.low:.1%} to {found.high:.1%}" if found else ""
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in one.metrics.items())
            rows.append([label, f"{found.value:.1%}" if found else f"{one.metrics.get(first, float('nan')):.4g}", shown, numbers])
            values[label] = found.value if found else one.metrics.get(first, 0.0)
            if found:
                spans[label] = (found.low, found.high)
    if not rows:
        return
    yield table(["evaluation", "result", "95% interval", "all numbers"], rows)
    yield Markup(charts.bars("results", "", values, spans))
    changes = [row for run in runs for row in _changes(run, len(runs) > 1)]
    if changes:
        yield Markup("<p>Item by item, the same questions before and after:</p>")
        yield table(["from", "to", "difference", "95% interval", "p"], changes)


def _changes(run: RunData, named: bool) -> Iterator[list[str]]:
    with_items = [one for one in run.evaluations if one.items]
    for before, after in pairwise(with_items):
        ids = [id for id in before.items if id in after.items]
        if ids:
            found = compare([before.items[id] for id in ids], [after.items[id] for id in ids])
            prefix = f"{run.label}: " if named else ""
            ends = [f"{prefix}{before.stage}", f"{prefix}{after.stage}"]
            yield [*ends, f"{found.difference:+.1%}", f"{found.low:+.1%} to {found.high:+.1%}", f"{found.p_value:.2g}"]


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
        rows = []
        for one in run.rounds:
            found = one.statistics
            cells = [found.get(key) for key in ("prompts", "responses", "pairs", "replayed", "alpha", "mean_length_difference")]
            rows.append([_name(run, one.name, runs), *("" if cell is None else f"{cell:.4g}" for cell in cells)])
        yield table(["round", "prompts", "responses", "pairs", "replayed", "α", "mean length difference"], rows)
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
            total = sum(run.verdicts.values())
            yield table(["verdict", "programs", "share"], [[name, str(n), f"{n / total:.1%}"] for name, n in run.verdicts.items()])
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
        found = [one for one in run.evaluations if one.responses]
        if len(found) < 2:
            continue
        before, after = found[0], found[-1]
        shared = sorted((id for id in before.responses if id in after.responses), key=lambda id: before.items[id] == after.items[id])
        rows = [[_cut(before.questions[id]), _answer(before, id), _answer(after, id)] for id in shared[:8]]
        yield table([f"question ({run.label})", before.stage, after.stage], rows)


def _answer(one: Evaluation, id: str) -> Markup:
    return Markup('<pre class="{}">{}</pre>').format("chosen" if one.items[id] else "rejected", _cut(one.responses[id]))


def costs(runs: Sequence[RunData]) -> Iterator[Markup]:
    """Seconds and memory of every stage, tokens where they are counted."""
    rows = []
    for run in runs:
        for name, manifest in run.stages.items():
            memory = run.usage.get(name, {})
            tokens = [entry["num_tokens"] for one in run.trainings if one.stage == name for entry in one.log if "num_tokens" in entry]
            held = [f"{memory[key] / 1e9:.2f} GB" if memory.get(key) else "" for key in ("memory", "gpu_memory")]
            rows.append([_name(run, name, runs), f"{manifest['seconds']:.1f}", f"{tokens[-1]:,.0f}" if tokens else "", *held])
        rows.append([f"{run.label}, in all", f"{sum(m['seconds'] for m in run.stages.values()):.1f}", "", "", ""])
    if rows:
        yield table(["stage", "seconds", "tokens trained on", "memory", "GPU memory"], rows)


def setup(runs: Sequence[RunData]) -> Iterator[Markup]:
    """What was run: recipe, inputs, versions."""
    for run in runs:
        last = next(reversed(run.stages.values()), {})
        finished, commit = last.get("finished", "not yet"), last.get("commit") or "unknown"
        facts = {"method": run.method, "folder": str(run.path), "finished": finished, "commit": commit}
        facts |= {"python": last.get("python", "unknown"), **(last.get("versions") or {})}
        yield table([run.label, ""], [[key, str(value)] for key, value in facts.items()])
        text = yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True)
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
