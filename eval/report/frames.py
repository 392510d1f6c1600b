"""A run's numbers as plain tables: what the page prints and what trackers are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eval.intervals import compare, interval
from eval.report.gather import Evaluation, RunData

SAMPLES = 8


@dataclass(frozen=True)
class Frame:
    """A table: its name, its columns, its rows of texts and numbers."""

    name: str
    columns: list[str]
    rows: list[list[str | float | None]]


def frames(run: RunData) -> list[Frame]:
    """All tables of a run that have a row."""
    made = (results(run), changes(run), rounds(run), verdicts(run), samples(run), costs(run))
    return [frame for frame in made if frame.rows]


def results(run: RunData) -> Frame:
    """Every number of every evaluation; the first of each with its 95% interval where items were graded."""
    frame = Frame("results", ["evaluation", "number", "value", "low", "high", "count"], [])
    for one in run.evaluations:
        rate = interval(list(one.items.values())) if one.items else None
        for place, (name, value) in enumerate(one.metrics.items()):
            sure: list[str | float | None] = [rate.low, rate.high, rate.count] if rate and place == 0 else [None, None, None]
            frame.rows.append([one.title, name, value, *sure])
    return frame


def changes(run: RunData) -> Frame:
    """What changed on the same items: from the start to each later model and to the search, and from each round to the next."""
    frame = Frame("changes", ["from", "to", "difference", "low", "high", "p"], [])
    for before, after in _compared([one for one in run.evaluations if one.items]):
        ids = [id for id in before.items if id in after.items]
        if ids:
            found = compare([before.items[id] for id in ids], [after.items[id] for id in ids])
            frame.rows.append([before.title, after.title, found.difference, found.low, found.high, found.p_value])
    return frame


def _compared(graded: Sequence[Evaluation]) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Pairs of measurements by the same suite, earlier and later."""
    for suite in dict.fromkeys(one.suite for one in graded):
        mine = [one for one in graded if one.suite == suite]
        start = next((one for one in mine if one.is_of_the_start), None)
        yield from ((start, one) for one in mine if start is not None and one is not start)
        yield from (step for step in pairwise([one for one in mine if one.is_of_a_model]) if step[0] is not start)


def rounds(run: RunData) -> Frame:
    """DICE's rounds."""
    keys = ("prompts", "responses", "pairs", "replayed", "alpha", "mean_length_difference")
    frame = Frame("rounds", ["round", "prompts", "responses", "pairs", "replayed", "α", "mean length difference"], [])
    frame.rows.extend([one.name, *(one.statistics.get(key) for key in keys)] for one in run.rounds)
    return frame


def verdicts(run: RunData) -> Frame:
    """The sandbox's verdicts on sampled programs."""
    total = sum(run.verdicts.values())
    return Frame("verdicts", ["verdict", "programs", "share"], [[name, count, count / total] for name, count in run.verdicts.items()])


def samples(run: RunData) -> Frame:
    """The same questions before and after, those whose grade changed first; without graded answers, what the policies of the first
    and the last round wrote to the same prompts."""
    ends = next(_ends([one for one in run.evaluations if one.responses]), None)
    if ends is None:
        return _samples_of_rounds(run)
    before, after = ends
    shared = sorted((id for id in before.responses if id in after.responses), key=lambda id: before.items[id] == after.items[id])
    frame = Frame("samples", ["question", before.title, "right before", after.title, "right after"], [])
    for id in shared[:SAMPLES]:
        sides = [cell for one in (before, after) for cell in (one.responses[id], one.items[id])]
        frame.rows.append([before.questions[id], *sides])
    return frame


def _ends(evaluations: Sequence[Evaluation]) -> Iterator[tuple[Evaluation, Evaluation]]:
    """The first and the last measurement by each suite that has two."""
    for suite in dict.fromkeys(one.suite for one in evaluations):
        mine = [one for one in evaluations if one.suite == suite]
        if len(mine) > 1:
            yield mine[0], mine[-1]


def _samples_of_rounds(run: RunData) -> Frame:
    sampled = [one for one in run.rounds if one.responses]
    if len(sampled) < 2:
        return Frame("samples", [], [])
    first, last = sampled[0], sampled[-1]
    frame = Frame("samples", ["question", f"policy of {first.name}", "right before", f"policy of {last.name}", "right after"], [])
    for prompt in [prompt for prompt in first.responses if prompt in last.responses][:SAMPLES]:
        frame.rows.append([prompt, first.responses[prompt], None, last.responses[prompt], None])
    return frame


def costs(run: RunData) -> Frame:
    """Seconds, tokens and the most memory of every stage."""
    frame = Frame("costs", ["stage", "seconds", "tokens trained on", "memory, GB", "GPU memory, GB"], [])
    frame.rows.extend(_cost(run))
    return frame


def _cost(run: RunData) -> Iterator[list[str | float | None]]:
    for name, manifest in run.stages.items():
        memory = run.usage.get(name, {})
        tokens = [entry["num_tokens"] for one in run.trainings if one.stage == name for entry in one.log if "num_tokens" in entry]
        held = [memory[key] / 1e9 if memory.get(key) else None for key in ("memory", "gpu_memory")]
        yield [name, manifest["seconds"], tokens[-1] if tokens else None, *held]
