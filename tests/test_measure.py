"""The recipe's list `measure`: each suite has keys of its own, becomes stages of the run, and is left out of what is trained on."""

import pytest

from align import recipes
from align.errors import AlignError
from align.plans import stages_of

PLAIN = {"model": {"name_or_path": "m"}, "data": {"train": "d.jsonl"}}
THOUGHTS = {"model": {"name_or_path": "m"}, "rollouts": {"prompts": "q.jsonl"}, "thoughts": {"task": "gsm8k"}}
CODE = {"model": {"name_or_path": "m"}, "rollouts": {"prompts": "p.jsonl"}, "code": {"decontaminate": []}}


def planned(raw, *measure):
    return {stage.name: stage for stage in stages_of(recipes.parse({**raw, "measure": list(measure)}, "recipe"))}


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ([{"suite": "sums", "pass_at": [1]}], "measure.0: pass_at is of no use with the suite 'sums': it has suite, name, problems"),
        (["gsm8k", {"suite": "math", "shots": 3}], "measure.1: shots is of no use with the suite 'math'"),
        ([{"suite": "humaneval", "search": True}], "measure.0: search is of no use with the suite 'humaneval'"),
        ([{"suite": "lm:x", "data": "d.jsonl"}], "measure.0: data is of no use with the suite 'lm:x'"),
        ([{"suite": "sums", "problms": 1}], "measure.0: problms is not a key: did you mean 'problems'"),
        ([{"problems": 3}], "measure.0.suite is missing"),
        ("gsm8k", "expected a list of suites"),
        ([3], "measure.0 is 3: expected a suite's name"),
        (["sums", "sums"], "measure.1: there are results named 'sums' already"),
        ([{"suite": "sums", "problems": 0}], "measure.0.problems is 0"),
        ([{"suite": "gsm8k", "engine": "vlm"}], "measure.0.engine is 'vlm'"),
        ([{"suite": "gsm8k", "name": "../x"}], "measure.0.name is '../x'"),
        (["gsm9k"], "measure.0.suite is 'gsm9k': did you mean 'gsm8k'"),
        (["code"], "measure.0.data is missing"),
        (["questions"], "the suite 'questions' asks held-out questions of the recipe's task, which has none"),
        ([{"suite": "gsm8k", "search": True}], "measure.0.search is of no use without `thoughts`"),
        ([{"suite": "sums", "name": "train"}], "results cannot be named 'train', as a stage of the run is"),
    ],
)
def test_what_a_suite_cannot_use_is_refused(measure, message):
    with pytest.raises(AlignError) as refused:
        stages_of(recipes.parse({**PLAIN, "measure": measure}, "recipe"))
    assert message in str(refused.value)


def test_every_suite_measures_at_the_start_and_at_the_end():
    stages = planned(
        PLAIN, "sums", "gsm8k", {"suite": "humaneval", "samples": 5}, "lm:hellaswag", {"suite": "instructions", "data": "i.jsonl"}
    )
    labels = ["sums", "gsm8k", "humaneval", "lm-hellaswag", "instructions"]
    assert list(stages) == [*(f"start/{name}/evaluate" for name in labels), "train", *(f"{name}/evaluate" for name in labels)]
    assert stages["gsm8k/evaluate"].inputs["questions"].source == "openai/gsm8k:main"
    assert stages["humaneval/evaluate"].settings["samples"] == 5
    assert stages["gsm8k/evaluate"].inputs["model"].stage == "train"


def test_suites_of_the_harness_end_responses_as_the_rollouts_do():
    raw = {**PLAIN, "rollouts": {"prompts": "p.jsonl", "stop_token_ids": ["<|eot_id|>"]}, "rounds": {"scorers": [{"name": "length"}]}}
    assert planned(raw, "lm:hellaswag")["start/lm-hellaswag/evaluate"].settings["stop_token_ids"] == ("<|eot_id|>",)
    assert "stop_token_ids" not in planned(PLAIN, "lm:hellaswag")["start/lm-hellaswag/evaluate"].settings, "as before there were any"


def test_in_rounds_every_suite_measures_after_each():
    raw = {**PLAIN, "rollouts": {"prompts": "p.jsonl"}, "rounds": {"count": 2, "scorers": [{"name": "length"}]}}
    names = [name for name in planned(raw, "sums", "math") if name.endswith("evaluate")]
    assert names == [f"{moment}/{suite}/evaluate" for moment in ("start", "round-1", "round-2") for suite in ("sums", "math")]


def test_all_questions_that_are_measured_by_are_left_out_of_the_search():
    search = planned(THOUGHTS, {"suite": "questions", "data": "t.jsonl"}, {"suite": "svamp", "problems": 7})["search"]
    assert [(one["task"], one["limit"]) for one in search.settings["held_out"]] == [("gsm8k", None), ("svamp", 7)]
    assert [search.inputs[f"held_out-{number}"].source for number in range(2)] == ["t.jsonl", "ChilleD/SVAMP"]


def test_all_problems_that_are_measured_by_are_left_out_of_the_training():
    inputs = planned(CODE, {"suite": "code", "data": "t.jsonl"}, "humaneval", "gsm8k")["problems"].inputs
    assert [inputs[f"benchmark-{number}"].source for number in range(2)] == ["t.jsonl", "openai/openai_humaneval"]
    assert "benchmark-2" not in inputs


def test_a_benchmark_that_is_measured_by_and_named_is_left_out_once():
    inputs = planned({**CODE, "code": {"decontaminate": ["openai/openai_humaneval", "b.jsonl"]}}, "humaneval")["problems"].inputs
    assert [inputs[key].source for key in inputs if key.startswith("benchmark")] == ["openai/openai_humaneval", "b.jsonl"]


@pytest.mark.parametrize(
    ("judge", "asked", "searched"),
    [
        ("self_evaluation", None, True), ("checker", None, True), ("answer", None, False), ("steps", None, False), ("steps", True, True),
        ("answer", True, True), ("checker", False, False),
    ],
)  # fmt: skip
def test_a_judge_that_reads_the_answers_searches_held_out_questions_only_where_that_is_asked_for(judge, asked, searched):
    stages = planned({**THOUGHTS, "thoughts": {"task": "gsm8k", "judge": {"name": judge}}}, {"suite": "gsm8k", "search": asked})
    assert ("start/gsm8k/search" in stages) == ("start/gsm8k/grade" in stages) == searched


def test_a_suite_asks_as_the_training_does_unless_it_says_otherwise():
    raw = {**THOUGHTS, "rollouts": {"prompts": "q.jsonl", "chat": True, "system": "Be brief."}}
    stages = planned(raw, "gsm8k", {"suite": "math", "chat": False, "engine": "vllm"})
    assert (stages["gsm8k/evaluate"].settings["form"], stages["gsm8k/evaluate"].settings["system"]) == ("examples_in_chat", "Be brief.")
    assert (stages["math/evaluate"].settings["form"], stages["math/evaluate"].settings["engine"]["engine"]) == ("examples", "vllm")
    assert planned(PLAIN, "gsm8k")["gsm8k/evaluate"].settings["form"] is None


def test_an_entry_is_changed_by_its_place(tmp_path):
    (tmp_path / "r.yaml").write_text("model: {name_or_path: m}\ndata: {train: d.jsonl}\nmeasure: [gsm8k]\n")
    assert recipes.load(tmp_path / "r.yaml", ["measure.0.problems=3"]).measure[0].problems == 3
    with pytest.raises(AlignError, match="'1' is no place in a list of 1"):
        recipes.load(tmp_path / "r.yaml", ["measure.1.problems=3"])
