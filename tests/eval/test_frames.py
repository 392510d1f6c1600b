"""The tables of a run: which evaluations are compared with which, and what a table leaves out."""

import io

import pytest
from rich.console import Console

from align import plans, recipes
from align.plans import Outcome
from align.tables import _suite_table, outcome_table
from align.trees import Edge, Node, PreferenceTree, write_trees
from eval.report import frames
from eval.report.gather import Evaluation, RunData, _round, gather


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


def test_a_search_whose_judge_knows_the_answers_is_called_so(tmp_path):
    (tmp_path / "start/gsm8k/grade").mkdir(parents=True)
    (tmp_path / "start/gsm8k/grade/metrics.json").write_text('{"accuracy": 1.0}')
    (tmp_path / "start/gsm8k/grade/manifest.json").write_text('{"finished": "2026-01-01", "seconds": 1}')
    for judge, title in (("steps", "gsm8k, tree search by a judge that knows the answers, before"), ("vote", "gsm8k, tree search, before")):
        (tmp_path / "recipe.yaml").write_text(f"thoughts: {{judge: {{name: {judge}}}}}")
        assert [one.title for one in gather(tmp_path).evaluations] == [title]


@pytest.mark.parametrize(("judge", "marked", "gap"), [("vote", False, True), ("checker", True, True), ("steps", True, False)])
def test_what_a_search_reached_is_marked_where_its_judge_knows_the_answers(judge, marked, gap):
    numbers = {when: {"accuracy": value, "tokens": 5.0} for when, value in (("before", 0.25), ("after", 0.5), ("search", 0.75))}
    shown = text_of(_suite_table("", {"run": [numbers]}, {"run": judge}))
    assert ("75.0% (the judge knows the answers)" in shown) == marked
    assert ("50% to 50%" in shown) == gap


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("micro/cpo", "CPO"), ("micro/step-dpo", "Step-DPO"), ("step-dpo/qwen2.5-7b-gsm8k", "Step-DPO"), ("micro/irpo", "IRPO"),
        ("micro/online-dpo", "online DPO"), ("online-dpo/llama3-8b", "online DPO"), ("micro/dice", "DICE"), ("selm/zephyr-7b", "SELM"),
        ("self-rewarding/llama3-8b", "self-rewarding"), ("dpo/zephyr-7b", "DPO"), ("micro/code", "code preferences"),
    ],
)  # fmt: skip
def test_a_report_names_the_method(tmp_path, name, method):
    assert RunData("run", tmp_path, recipes.load(name).model_dump(mode="json")).method == method


def test_a_response_of_the_data_set_is_not_shown_as_the_policys(tmp_path):
    said = {"data": ("0", "the data's"), "one": ("2", "the policy's"), "two": ("2", "the next policy's")}
    run = RunData("run", tmp_path, {})
    for name, (responses, text) in said.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "statistics.json").write_text(f'{{"responses": {responses}}}')
        for file in ("scored.jsonl", "pairs.jsonl"):
            write_trees([PreferenceTree("q", (Node(text), Node("no")), (Edge(0, 1),))], tmp_path / name / file)
        run.rounds.append(_round(run, name, tmp_path / name))
    assert [one.responses for one in run.rounds] == [{}, {"q": "the policy's"}, {"q": "the next policy's"}]
    assert [row[1::2] for row in frames.samples(run).rows] == [["the policy's", "the next policy's"]]


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
