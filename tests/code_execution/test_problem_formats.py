"""The format that a recipe names is the one that every stage reads, whatever a record's columns look like."""

import json

import pytest

from align.runs import Task
from data_pipelines.code_execution.problems import read_problems
from data_pipelines.code_execution.sandbox import Assertions, Sandbox, Verdict
from data_pipelines.code_execution.stages import choose_problems, read_chosen

AMBIGUOUS = {  # has the columns of HumanEval and of a problem of one's own
    "task_id": "7", "prompt": "def add(a, b):\n    # adds\n", "entry_point": "add", "canonical_solution": "    return a + b\n",
    "test": "def check(f):\n    assert f(1, 2) == 3\n", "tests": "assert add(2, 2) == 4",
}  # fmt: skip


@pytest.mark.parametrize("format", ["humaneval", "own"])
def test_a_record_of_two_formats_stays_what_the_recipe_says(tmp_path, format):
    source = tmp_path / "given.jsonl"
    source.write_text(json.dumps(AMBIGUOUS) + "\n")
    settings = {"source": {"format": format}, "tests_from": None, "chat": False, "check_solutions": False, "sandbox": {}}
    choose_problems(Task("problems", tmp_path, settings, {"problems": str(source)}))
    (chosen,) = read_chosen(tmp_path / "problems.jsonl")
    (read,) = read_problems(str(source), format=format)
    assert (chosen.id, chosen.ask, chosen.tests, chosen.format) == (read.id, read.ask, read.tests, format)


def test_a_verdict_can_be_compared_with_its_kinds_name():
    assert Verdict("exception", "ValueError") == "exception"
    assert Verdict("exception", "ValueError") != Verdict("exception", "KeyError")
    assert Verdict("pass") != "timeout"
    assert len({Verdict("pass"), Verdict("pass"), Verdict("timeout")}) == 2


@pytest.mark.slow
@pytest.mark.xdist_group("sandbox")
def test_results_and_tests_say_whether_they_pass():
    with Sandbox(workers=1) as box:
        result = box.run("def f(x): return x", Assertions("assert f(1) == 1\nassert f(2) == 3", "f"))
    assert result.verdict != "pass"
    assert not result.passed
    assert [test.passed for test in result.tests] == [True, False]
