"""The format that a recipe names is the one that every stage reads, whatever a record's columns look like."""

import json

import pytest

from align.runs import Task
from align.trees import Edge, Node, PreferenceTree
from data_pipelines.code_execution.edges import EdgeRules, with_edges
from data_pipelines.code_execution.formats import FORMATS
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


def test_the_arguments_of_a_call_end_at_a_newline_alone():
    given = '"a\u2028b"\n[1]\n'
    cases = json.dumps([{"input": given, "output": "1"}, {"input": "", "output": "2"}], ensure_ascii=False)
    record = {"question_id": "7", "question_content": "Look.", "public_test_cases": cases, "metadata": json.dumps({"func_name": "look"})}
    tests = FORMATS["livecodebench"](record).tests
    assert tests.cases == ((("a\u2028b", [1]), 1), ((), 2))


def programs(*given):
    """A problem's programs: verdict, how each ended, and the first that is the same."""
    nodes = [
        Node(verdict, score=float(verdict == "pass"), metadata={"verdict": verdict, "finish_reason": ended, "same_as": same, "program": ""})
        for verdict, ended, same in given
    ]
    return PreferenceTree("add", tuple(nodes), id="add")


def test_of_equal_programs_the_first_that_ended_stands_in_the_pairs():
    tree = programs(("pass", "length", None), ("pass", "stop", 0), ("wrong_answer", "stop", None), ("pass", "stop", 0))
    assert with_edges(tree, EdgeRules()).edges == (Edge(1, 2),)
    assert with_edges(tree, EdgeRules(drop_truncated=False)).edges == (Edge(0, 2),)
    cut = programs(("pass", "length", None), ("wrong_answer", "stop", None), ("pass", "length", 0))
    assert with_edges(cut, EdgeRules()).edges == ()


@pytest.mark.slow
@pytest.mark.xdist_group("sandbox")
def test_results_and_tests_say_whether_they_pass():
    with Sandbox(workers=1) as box:
        result = box.run("def f(x): return x", Assertions("assert f(1) == 1\nassert f(2) == 3", "f"))
    assert result.verdict != "pass"
    assert not result.passed
    assert [test.passed for test in result.tests] == [True, False]
