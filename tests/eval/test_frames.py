"""The tables of a run: which evaluations are compared with which, and what a table leaves out."""

import io

import pytest
from rich.console import Console

from align import plans, recipes
from align.plans import Outcome
from align.tables import outcome_table
from eval.report import frames
from eval.report.gather import Evaluation, RunData


def run_of(tmp_path, *stages):
    run = RunData("run", tmp_path, {})
    run.evaluations = [Evaluation(stage, {"accuracy": 0.5}, {str(n): float(n % 2) for n in range(4)}) for stage in stages]
    return run


@pytest.mark.parametrize(
    ("stages", "compared"),
    [
        (["start/evaluate", "evaluate"], [("before", "after")]),
        (["start/evaluate", "start/grade", "evaluate"], [("before", "tree search, before"), ("before", "after")]),
        (
            ["start/evaluate", "start/grade", "round-1/evaluate", "round-2/evaluate"],
            [
                ("before", "tree search, before"), ("before", "after round 1"), ("before", "after round 2"),
                ("after round 1", "after round 2"),
            ],
        ),
        (["gsm8k/evaluate", "math/evaluate"], []),
        (
            ["start/gsm8k/evaluate", "start/math/evaluate", "start/gsm8k/grade", "gsm8k/evaluate", "math/evaluate"],
            [("gsm8k, before", "gsm8k, tree search, before"), ("gsm8k, before", "gsm8k, after"), ("math, before", "math, after")],
        ),
    ],
)  # fmt: skip
def test_models_are_compared_with_the_start_and_rounds_with_the_one_before(tmp_path, stages, compared):
    assert [(row[0], row[1]) for row in frames.changes(run_of(tmp_path, *stages)).rows] == compared


def text_of(table):
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_drifts_stand_in_the_table_only_where_the_monitor_ran():
    plain = Outcome("run", 0, {"sums": {"accuracy": 0.5}}, {"sums": {"accuracy": 0.75}}, {}, "")
    assert "chosen drift" not in text_of(outcome_table([plain]))
    assert "nan" not in text_of(outcome_table([plain]))
    watched = Outcome("run", 0, {}, {}, {"3d/chosen_drift": 1.0, "3d/rejected_drift": -2.0, "3d/unseen_drift": 0.5}, "")
    assert "-2.00" in text_of(outcome_table([watched]))


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_variants_are_not_merged_for_what_they_are_called(tmp_path, seeds):
    (tmp_path / "pairs.jsonl").write_text("")
    raw = {
        "model": {"name_or_path": "m"}, "data": {"train": str(tmp_path / "pairs.jsonl")}, "seeds": seeds,
        "variants": {"seedless": {}, "one seed": {}, "seed 1": {}},
    }  # fmt: skip
    runs = plans.runs_of(recipes.parse(raw, "recipe"))
    assert {run.variant for run in runs} == {"seedless", "one seed", "seed 1"}
    assert len({run.folder.path for run in runs}) == 3 * len(seeds)
