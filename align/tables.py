"""What the command line draws: trees, plans, and the outcome of trainings and rounds."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from align.recipes.methods import KNOW_THE_ANSWERS
from align.runs import assess
from align.runs.stage import SPECIFICATION, HowFar, how_far
from align.trees import ROOT, Node, PreferenceTree

Moments = Mapping[str, Mapping[str, float]]
"""The numbers of a suite `before`, `after`, and of the start model's `search`."""

if TYPE_CHECKING:
    from align.diagnostics.study import Curves
    from align.estimate import Estimate
    from align.plans import Outcome, Run
    from data_pipelines.code_execution.sandbox import ExecutionResult
    from eval.diagnosis import Diagnosis
    from eval.report.gather import Evaluation
    from eval.win_rates import Annotation, Controlled, WinRate


def draw_tree(tree: PreferenceTree, width: int = 100) -> Tree:
    """A tree for the terminal: + and − mark what is preferred and what is not, with scores and edges; of a search, the kept
    paths are bold, and the verdicts stand behind the values.

    Args:
        tree: to be drawn.
        width: characters of a node's text to show.
    """
    better = {edge.chosen for edge in tree.edges}
    worse = {edge.rejected for edge in tree.edges}
    search = tree.metadata.get("search")
    kept = {node for leaf in search["kept"] for node in tree.path(leaf)} if search else set()
    drawn = Tree(_searched(search, width) if search else f"[bold]{_short(tree.prompt, width)}[/]")
    branches = {ROOT: drawn}
    for index, node in enumerate(tree.nodes):
        mark = "[yellow]±[/]" if index in better & worse else "[green]+[/]" if index in better else "[red]−[/]" if index in worse else "·"
        score = f" [cyan]{node.score:g}[/]" if node.score is not None else ""
        beats = sorted(edge.rejected for edge in tree.edges if edge.chosen == index)
        edges = f" [dim]beats {', '.join(map(str, beats))}[/]" if beats else ""
        text = f"[bold]{_short(node.text, width)}[/]" if index in kept else _short(node.text, width)
        branches[index] = branches[node.parent].add(f"{mark} [dim]{index}[/] {text}{score}{edges}{_verdicts(node)}")
    return drawn


def _searched(search: dict[str, Any], width: int) -> str:
    """The first line of a search: the question, what the search answers, and how it ended."""
    question = _short(" / ".join(search["question"].values()), width)
    right = {True: " [green]right[/]", False: f" [red]wrong, {escape(', '.join(search['gold']))} is right[/]", None: ""}[search["right"]]
    dropped = "".join(f", {count} {reason}" for reason, count in search["dropped"].items())
    return f"[bold]{question}[/] → [bold]{escape(search['answer'])}[/]{right} [dim]({len(search['kept'])} kept{dropped})[/]"


def _verdicts(node: Node) -> str:
    verdicts = node.metadata.get("judgement", {}).get("verdicts")
    return f" [dim]{' '.join(verdict or '?' for verdict in verdicts)}[/]" if verdicts else ""


def _short(text: object, width: int) -> str:
    plain = text if isinstance(text, str) else " / ".join(f"{m['role']}: {m.get('content') or ''}" for m in text)  # type: ignore[attr-defined]
    plain = plain.replace("\n", "⏎")
    return escape(plain if len(plain) <= width else plain[: width - 1] + "…")


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """One line per variant: each suite's first number before and after (mean over seeds), and the drifts of the 3D monitor, if it ran."""
    table = Table(
        title="before and after, mean over seeds (nats a response; drift from the start of training)", title_justify="left", box=None
    )
    numbers = {suite: next(iter(found)) for o in outcomes for suite, found in o.before.items()}
    watched = [kind for kind in ("chosen", "rejected", "unseen") if any(f"3d/{kind}_drift" in o.three_d for o in outcomes)]
    drifts = [f"{kind} drift" for kind in watched]
    suites = [
        column for suite, number in numbers.items() for column in (f"{_of(suite, numbers)}{number} before", "after", "better than start")
    ]
    for column in ("run", "seeds", *(suites or ["before", "after", "better than start"]), *drifts):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.name == name]
        drifted = [mean(o.three_d.get(f"3d/{kind}_drift", float("nan")) for o in mine) for kind in watched]
        cells = [cell for suite, number in numbers.items() for cell in _compared(mine, suite, number)]
        table.add_row(name, str(len(mine)), *(cells or ["", "", ""]), *(f"{drift:+.2f}" for drift in drifted))
    return table


def _compared(outcomes: Sequence[Outcome], suite: str, number: str) -> list[str]:
    """A suite's number before, after, and on how many seeds it is better."""
    measured = [(o.before[suite][number], o.after[suite][number]) for o in outcomes if suite in o.before and suite in o.after]
    if not measured:
        return ["", "", ""]
    before, after = zip(*measured, strict=True)
    shown = ".1%" if number == "accuracy" else ".3f"
    return [format(mean(before), shown), format(mean(after), shown), f"{sum(a > b for b, a in measured)} of {len(measured)}"]


def _of(suite: str, suites: Collection[str]) -> str:
    """A suite's name in front of its numbers, where there are several."""
    return f"{suite} " if len(suites) > 1 else ""


def study_table(curves: Sequence[Curves]) -> Table:
    """One line a scenario and method of the toy study: whether each of the 3D-properties appears, and how strongly."""
    from align.diagnostics.study import summary

    title = "the 3D-properties at the end of training; p⁺, p⁻: probability of the chosen and rejected response"
    table = Table(title=title, title_justify="left", box=None)
    columns, *lines = summary(curves)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < 3 else "right")
    colours = {"no": "green", "yes": "yellow", "strongly": "bold red"}
    for line in lines:
        table.add_row(*line[:5], *(f"[{colours[cell.split(':')[0]]}]{cell}[/]" for cell in line[5:]))
    return table


def diagnosis_tables(found: Diagnosis) -> list[object]:
    """On-policyness, drift and the most displacing pairs of a data set."""
    policy = Table(title="on-policy? (log-prob a token)", **_PLAIN)
    for column in ("responses", "mean", "interval", "count"):
        policy.add_column(column, justify="left" if column == "responses" else "right")
    for name, one in found.on_policy.items():
        policy.add_row(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", str(one.count))
    tables: list[object] = [policy]
    if found.drift is not None:
        drift = Table(title="drift, nats a response", **_PLAIN)
        for column in ("responses", "log-prob now", "drift"):
            drift.add_column(column, justify="left" if column == "responses" else "right")
        for name in ("chosen", "rejected", "unseen"):
            drift.add_row(
                name, *(f"{getattr(found.drift, f'{name}_{what}'):{form}}" for what, form in (("logp", ".2f"), ("drift", "+.2f")))
            )
        tables += [drift, *(f"[bold red]{escape(finding)}[/]" for finding in found.findings)]
    pairs = Table(title="the pairs that displace most, by CHES", **_PLAIN)
    for column in ("tree", "normalised", "CHES", "prompt", "chosen", "rejected"):
        pairs.add_column(column, justify="right" if column in ("normalised", "CHES") else "left", no_wrap=True)
    for pair in found.displacing:
        scores = (f"{pair.edge.ches_normalized:.3g}", f"{pair.edge.ches:.3g}")
        pairs.add_row(str(pair.edge.tree), *scores, _short(pair.prompt, 34), _short(pair.chosen, 26), _short(pair.rejected, 26))
    return [*tables, pairs]


def evaluation_table(found: Mapping[str, Evaluation], others: Mapping[str, Evaluation]) -> Table:
    """One line a suite: the first number with its 95% interval, and the share of answers that could be read; against another model,
    the paired difference on the questions that both were asked."""
    from eval.intervals import compare, interval

    table = Table(**_PLAIN)
    against = ("than the other", "95% interval", "p") if others else ()
    for column in ("suite", "number", "value", "95% interval", "count", "readable", *against):
        table.add_column(column, justify="left" if column in ("suite", "number") else "right")
    for suite, one in found.items():
        name, form = next(iter(one.metrics)), ".1%" if one.is_share else ".3f"
        rate = interval(list(one.items.values())) if one.items else None
        cells = [f"{one.metrics[name]:.4g}", "", ""]
        if rate is not None:
            cells = [f"{rate.value:{form}}", f"{rate.low:{form}} to {rate.high:{form}}", str(rate.count)]
        cells.append(f"{one.metrics['answered']:.1%}" if "answered" in one.metrics else "")
        shared = [id for id in one.items if suite in others and id in others[suite].items]
        if shared:
            other = compare([others[suite].items[id] for id in shared], [one.items[id] for id in shared])
            cells += [f"{other.difference:+{form}}", f"{other.low:+{form}} to {other.high:+{form}}", f"{other.p_value:.2g}"]
        table.add_row(suite, name, *cells)
    return table


def evaluation_notes(found: Mapping[str, Evaluation]) -> list[str]:
    """A line for each evaluation of programs: those that the tests could not judge, and what follows for the score."""
    judged = [(suite, one) for suite, one in found.items() if "harness_errors" in one.metrics]
    return [f"{suite}: {note}" for suite, one in judged for note in (one.notes or ["no harness errors"])]


def win_rate_table(first: Annotation, found: WinRate, controlled: Controlled | None) -> Table:
    """A win rate, raw and at equal lengths, with 95% intervals; percent."""
    table = Table(title=f"{first.model} against {first.baseline}", **_PLAIN)
    for column in ("", "win rate", "95% interval", "standard error"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [("raw", found.win_rate, found.standard_error)]
    if controlled is not None:
        name = "length-controlled" if controlled.comparable else "at equal lengths, two terms (not comparable with the leaderboard)"
        rows.append((name, controlled.win_rate, controlled.standard_error))
    for label, rate, error in rows:
        shown = f"{100 * error:.2f}" if error > 1e-9 else ""
        table.add_row(label, f"{100 * rate.value:.2f}", f"{100 * rate.low:.2f} to {100 * rate.high:.2f}", shown)
    table.caption = (
        f"{found.wins} wins, {found.losses} losses, {found.draws} draws, {found.without} without a verdict; "
        f"mean length {found.model_length:.0f} characters, the baseline's {found.baseline_length:.0f}"
    )
    return table


_PLAIN: dict[str, Any] = {"title_justify": "left", "box": None}
_STATES = {
    "done": ("done", "green"), "resume": ("interrupted", "yellow"), "restore": ("set aside", "yellow"), "run": ("to do", "default"),
    "wait": ("to do", "default"),
}  # fmt: skip
"""The kind of a stage's state → what it is called, and in which colour."""


def plan_rows(run: Run) -> list[dict[str, Any]]:
    """Where the stages of a run stand, in JSON types.

    Returns:
        For each `stage` its `state` (done, running, interrupted, set aside, to do); the `seconds` that it took, or that it has been
        running; its `progress` (see `HowFar`); and the `reason` why it is to be done.
    """
    running, rows = run.folder.is_locked(), []
    for state in assess(run.stages, run.folder):
        folder = run.folder.stage(state.stage.name)
        row: dict[str, Any] = {"stage": state.stage.name, "state": _STATES[state.kind][0], "reason": state.reason}
        if state.kind == "done" and (manifest := run.folder.manifest(state.stage.name)):
            row["seconds"] = manifest["seconds"]
        if state.kind == "resume":
            if running:  # its task is written when it begins
                began = (folder / SPECIFICATION).stat().st_mtime
                row |= {"state": "running", "reason": "", "seconds": round(max(0.0, time.time() - began), 1)}
            row["progress"] = asdict(far) if (far := how_far(folder)) else None
        rows.append(row)
    return rows


def plan_table(run: Run) -> Table:
    """One line a stage: where it stands, how long it took or how far it is, and what is left to do."""
    colours = {**dict(_STATES.values()), "running": "cyan"}
    running = run.folder.is_locked()
    table = Table(title=f"{run.folder.path}{'  [green](running)[/]' if running else ''}", title_justify="left", box=None)
    for column in ("stage", "state", "progress", ""):
        table.add_column(column)
    for row in plan_rows(run):
        far = [str(HowFar(**row["progress"]))] if row.get("progress") else []
        words = ", ".join([*far, *([f"{row['seconds']:.0f} s"] if "seconds" in row else [])])
        table.add_row(row["stage"], f"[{colours[row['state']]}]{row['state']}[/]", words, row["reason"])
    return table


def round_table(runs: Sequence[Run]) -> Table:
    """One line per variant and round, means over seeds: the task's numbers, on how many seeds the first of them is better than at the
    start, and the rewards that the round learned from."""
    table = Table(title="round by round, mean over seeds", title_justify="left", box=None)
    from align.plans import round_metrics

    found: dict[tuple[str, int], list[tuple[dict[str, float], dict[str, float]]]] = {}
    for run in runs:
        rounds = dict(round_metrics(run))
        for number, metrics in rounds.items():
            found.setdefault((run.variant, number), []).append((rounds.get(0, {}), metrics))
    names = list(dict.fromkeys(name for several in found.values() for _, metrics in several for name in metrics))
    for column in ("run", "round", "seeds", "better than start", *names):
        table.add_column(column, justify="left" if column == "run" else "right")
    for (label, number), several in sorted(found.items(), key=lambda item: item[0]):
        first = next(iter(several[0][0]), None)
        measured = [(start[first], metrics[first]) for start, metrics in several if first in start and first in metrics] if number else []
        better = f"{sum(after > before for before, after in measured)} of {len(measured)}" if measured else ""
        values = [[metrics[name] for _, metrics in several if name in metrics] for name in names]
        cells = [f"{mean(some):.3f}" if some else "" for some in values]
        table.add_row(label, str(number) if number else "start", str(len(several)), better, *cells)
    return table


def suite_tables(runs: Sequence[Run]) -> list[Table]:
    """The numbers of every suite before and after, one table each where there are any."""
    from align.plans import before_and_after

    found: dict[str, dict[str, list[Moments]]] = {}
    judges: dict[str, str] = {}
    for run in runs:
        judges[run.variant] = run.recipe.thoughts.judge.name if run.recipe.thoughts else ""
        for suite, numbers in before_and_after(run).items():
            if {"before", "after"} <= numbers.keys():
                found.setdefault(suite, {}).setdefault(run.variant, []).append(numbers)
    return [_suite_table(_of(suite, found), several, judges) for suite, several in found.items()]


def _suite_table(suite: str, found: Mapping[str, Sequence[Moments]], judges: Mapping[str, str]) -> Table:
    numbers = next(iter(found.values()))[0]["after"]
    if any("pass@" in number for number in numbers):
        return _program_table(suite, found)
    return _question_table(suite, found, judges) if {"accuracy", "tokens"} <= numbers.keys() else _number_table(suite, found)


def _question_table(suite: str, found: Mapping[str, Sequence[Moments]], judges: Mapping[str, str]) -> Table:
    """Plain greedy chain of thought before and after, and the start model's tree search: one line a variant, means over seeds.

    Args:
        suite: its name, in front of the title.
        found: by variant, the numbers of each seed.
        judges: by variant, the judge of its searches; what one reaches that knows the answers is marked, and no gap to be closed unless
            it is `checker`, which is there to measure that.
    """
    title = f"{suite}greedy chain of thought before and after, and tree search, mean over seeds"
    table = Table(title=title, title_justify="left", box=None)
    searched = ("tree search", "of the gap closed", "tokens a question", "search's tokens")
    for column in ("run", "seeds", "before", "after", "better than start", *searched):
        table.add_column(column, justify="left" if column == "run" else "right")
    for label, whole in found.items():
        before, after = ([one[name]["accuracy"] for one in whole] for name in ("before", "after"))
        wins = f"{sum(a > b for a, b in zip(after, before, strict=True))} of {len(whole)}"
        cells = [f"{mean(before):.1%}", f"{mean(after):.1%}", wins]
        searches = [one["search"] for one in whole if "search" in one]
        if len(searches) == len(whole):
            top = [one["accuracy"] for one in searches]
            gaps = [(a - b) / (t - b) for a, b, t in zip(after, before, top, strict=True) if t != b]
            closed = f"{min(gaps):.0%} to {max(gaps):.0%}" if gaps else ""
            tokens = [f"{mean(one['after']['tokens'] for one in whole):.0f}", f"{mean(one['tokens'] for one in searches):.0f}"]
            knows = judges[label] in KNOW_THE_ANSWERS
            reached = f"{mean(top):.1%}{' (the judge knows the answers)' if knows else ''}"
            cells += [reached, "" if knows and judges[label] != "checker" else closed, *tokens]
        else:
            cells += ["", "", f"{mean(one['after']['tokens'] for one in whole):.0f}", ""]
        table.add_row(label, str(len(whole)), *cells)
    return table


def _program_table(suite: str, found: Mapping[str, Sequence[Moments]]) -> Table:
    """pass@k before and after: one line a variant, means over seeds."""
    title = f"{suite}programs that pass their tests, before and after, mean over seeds"
    names = [name for name in next(iter(found.values()))[0]["after"] if "pass@" in name]
    return _changes_table(title, names, ".1%", found)


def _number_table(suite: str, found: Mapping[str, Sequence[Moments]]) -> Table:
    """Every number before and after: one line a variant, means over seeds."""
    return _changes_table(f"{suite}before and after, mean over seeds", list(next(iter(found.values()))[0]["after"]), ".4g", found)


def _changes_table(title: str, names: Sequence[str], shown: str, found: Mapping[str, Sequence[Moments]]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in ("run", "seeds", "better than start", *names):
        table.add_column(column, justify="left" if column == "run" else "right")
    for label, several in found.items():
        wins = sum(one["after"][names[0]] > one["before"][names[0]] for one in several)
        cells = [" → ".join(format(mean(one[when][name] for one in several), shown) for when in ("before", "after")) for name in names]
        table.add_row(label, str(len(several)), f"{wins} of {len(several)}", *cells)
    return table


def execution_table(result: ExecutionResult) -> list[Table | str]:
    """A program's verdict in a sentence, and those of its tests."""
    passed = sum(test.passed for test in result.tests)
    sentence = f"{result.verdict}: {passed} of {result.count} tests pass, {result.seconds:.3f} s, isolation: {result.isolation}"
    table = Table(box=None, show_header=False)
    for test in result.tests:
        good = test.passed
        table.add_row("[green]pass[/]" if good else "[red]fail[/]", f"test {test.where}", "" if good else escape(str(test.verdict)))
    if result.count > len(result.tests):
        table.add_row("", f"{result.count - len(result.tests)} not reached", "")
    return [escape(sentence), table]


def estimate_tables(found: Estimate) -> list[Table | str]:
    """Hours by stage, and memory by ZeRO stage with what fits, each under its sentence."""
    load = found.workload
    lengths = f"mean lengths {load.prompt_tokens} (prompt) and {load.response_tokens} (response) tokens"
    first = f"{found.shape.parameters / 1e9:.2f} B parameters on {load.gpus} × {load.gpu}; {lengths}"
    hours = Table(box=None)
    for column in ("stage", "tokens", "hours"):
        hours.add_column(column, justify="left" if column == "stage" else "right")
    for name, (tokens, took) in found.stages.items():
        hours.add_row(name, f"{tokens / 1e6:,.0f} M", f"{took:.2f}")
    hours.add_row(f"all, {found.rounds} round(s)", "", f"{found.hours:.1f}")
    memory = Table(box=None)
    for column in ("", "GB", "fits"):
        memory.add_column(column, justify="right")
    for name, gigabytes in found.memory.items():
        memory.add_row(name, f"{gigabytes:.0f}", "[green]yes[/]" if found.fits(name) else "[red]no[/]")
    return [first, hours, f"Memory a GPU while training; {found.disk:,.0f} GB of disk for samples, models and a checkpoint.", memory]
