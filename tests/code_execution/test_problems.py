"""Problems of every format, and what is taken out of what a model wrote."""

import base64
import json
import pickle
import zlib

import pytest

from align.errors import AlignError
from data_pipelines.code_execution.decontamination import overlaps
from data_pipelines.code_execution.formats import own
from data_pipelines.code_execution.problems import read_problems
from data_pipelines.code_execution.sandbox import TOLERANCE, Assertions, Calls, Outputs, Sandbox

pytestmark = pytest.mark.xdist_group("sandbox")
PROMPT = (
    'from typing import List\n\n\ndef half(x: int) -> int:\n    return x // 2\n\n\ndef f(x: List[int]) -> int:\n    """ Halve it. """\n'
)
HUMANEVAL = {
    "task_id": "HumanEval/999", "prompt": PROMPT, "entry_point": "f", "canonical_solution": "    return half(x[0])\n",
    "test": "def check(candidate):\n    assert candidate([4]) == 2\n    assert half(candidate([8])) == 2\n",
}  # fmt: skip
PLUS = {**{k: v for k, v in HUMANEVAL.items() if k != "test"}, "base_input": [[[4]]], "plus_input": [[[9]], [[-3]]], "atol": 0}
MBPP_PLUS = {
    "task_id": "Mbpp/2", "prompt": '"""\nAdd the first two.\nassert f((1, 2)) == 3\n"""\n', "entry_point": "f", "atol": 0,
    "canonical_solution": "\ndef f(t):\n    return len({t}) and t[0] + t[1]", "base_input": [["ab"], [[1, 2]]], "plus_input": [["xyz"]],
}  # fmt: skip
MBPP = {
    "task_id": 7, "text": "Write a function to add.", "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert abs(add(-4, 1)) == 3"], "test_setup_code": "", "challenge_test_list": ["assert add(0, 0) == 0"],
}  # fmt: skip
SANITIZED = {"task_id": 8, "prompt": "Add them.", "code": MBPP["code"], "test_list": MBPP["test_list"], "test_imports": ["import math"]}
APPS = {
    "problem_id": 1, "question": "Add.", "solutions": json.dumps(["print(sum(map(int, input().split())))"]), "starter_code": "",
    "input_output": json.dumps({"inputs": ["1 2\n", "3 4"], "outputs": ["3\n", "7"]}),
}  # fmt: skip
APPS_CALLS = {
    **APPS, "starter_code": "class Solution:\n    def add(self, a, b):", "solutions": "",
    "input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]}),
}  # fmt: skip
CASES = [{"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}]
LCB = {
    "question_id": "lcb-1", "question_content": "Append.", "starter_code": "class Solution:\n    def append(self, l, x):",
    "public_test_cases": json.dumps(CASES), "metadata": json.dumps({"func_name": "append"}),
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(CASES)))).decode(),
}  # fmt: skip
LCB_STDIN = {
    "question_id": "lcb-2", "question_content": "Echo.", "starter_code": "", "metadata": "{}", "private_test_cases": "",
    "public_test_cases": json.dumps([{"input": "a", "output": "a", "testtype": "stdin"}]),
}  # fmt: skip
OWN = {"id": "o1", "prompt": "Square.", "tests": "assert f(3) == 9", "entry_point": "f", "solution": "def f(x): return x * x"}
RIGHT = {
    "humaneval": (HUMANEVAL, PROMPT + "    return half(x[0])"),
    "evalplus": (PLUS, PROMPT + "    return half(x[0])"),
    "evalplus mbpp": (MBPP_PLUS, "def f(t):\n    return t[0] + t[1]"),
    "mbpp": (MBPP, "def add(a, b): return b + a"),
    "sanitized": (SANITIZED, "def add(a, b): return b + a"),
    "apps": (APPS, "a, b = input().split()\nprint(int(a) + int(b))"),
    "apps calls": (APPS_CALLS, "class Solution:\n    def add(self, a, b): return a + b"),
    "livecodebench": (LCB, "class Solution:\n    def append(self, l, x): return l + [x]"),
    "livecodebench stdin": (LCB_STDIN, "print(input())"),
    "own": (OWN, "def f(x): return x ** 2"),
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(*records, **how):
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return read_problems(str(path), **how)

    return write_and_read


@pytest.mark.parametrize("name", RIGHT)
def test_a_format_is_recognised_and_judged(name, read, best):
    record, right = RIGHT[name]
    (problem,) = read(record)
    assert best.run(right, problem.tests).passed
    assert not best.run("def f(x): return None\ndef add(a, b): pass\nclass Solution: pass", problem.tests).passed
    if problem.solution:
        assert best.run(problem.solution, problem.tests).passed


def test_what_the_problems_become(read):
    humaneval, plus, mbpp, apps, calls, lcb = read(
        HUMANEVAL, {**PLUS, "task_id": "HumanEval/998"}, MBPP, APPS, {**APPS_CALLS, "problem_id": 2}, LCB
    )
    assert humaneval.tests.support == "from typing import List\n\ndef half(x: int) -> int:\n    return x // 2"
    assert (mbpp.id, mbpp.entry_point, len(mbpp.tests.code.splitlines())) == ("Mbpp/7", "add", 3)
    assert mbpp.prefix.startswith('"""\nWrite a function to add.\nassert add(1, 2) == 3')
    assert isinstance(plus.tests, Assertions)
    assert apps.tests == Outputs((("1 2\n", "3\n"), ("3 4", "7")), TOLERANCE)
    assert calls.tests == Calls("Solution().add", (((1, 2), [3]),), TOLERANCE, rule="apps")
    assert lcb.tests == Calls("Solution().append", ((([1, 2], 3), [1, 2, 3]),) * 2)


def test_real_benchmarks_are_read_whole(shared_data):
    humaneval = read_problems(str(shared_data / "humaneval/HumanEval.jsonl.gz"))
    mbpp = read_problems(str(shared_data / "mbpp/sanitized-mbpp.json"))
    assert (len(humaneval), len(mbpp)) == (164, 427)
    assert all(problem.entry_point and problem.solution for problem in humaneval + mbpp)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"x": 1}, "not a problem of any known format (columns x): expected at least 'prompt' and 'tests'"),
        ({**HUMANEVAL, "test": "def check(candidate:\n  pass"}, "the tests do not parse"),
        ({**HUMANEVAL, "entry_point": ""}, "the problem 'HumanEval/999' has no `entry_point`"),
        ({**HUMANEVAL, "prompt": "def f(x:"}, "the prompt does not parse"),
        (
            {**MBPP, "test_list": ["assert 1 == 1"], "challenge_test_list": []},
            "the problem '7' has no entry point: its tests call no function",
        ),
        ({**MBPP, "text": ""}, "an MBPP problem needs a description"),
        ({**APPS, "input_output": "{"}, "`input_output` is not JSON"),
        ({**APPS, "input_output": ""}, "the problem has no test cases"),
        ({**OWN, "tests": None}, "has no tests, and nothing is named that makes some"),
        ({**OWN, "tests": [1]}, "expected Python text, or a record with 'calls' or 'outputs'"),
        ({**OWN, "tests": {"calls": [[[1], 2]]}, "entry_point": None}, "the problem has no entry point"),
        ({**OWN, "tests": "assert g(1)"}, "the tests never use the entry point 'f'"),
        (
            {**LCB, "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Outputs((("a", "b"),))))).decode()},
            "a pickle that wants",
        ),
    ],
)
def test_a_record_that_is_no_problem_says_why(record, sentence, read):
    with pytest.raises(AlignError) as error:
        read(record)
    assert sentence in str(error.value)
    assert "line 1" in str(error.value)


def test_a_few_bad_records_are_kept_aside(read, tmp_path):
    good = [{**OWN, "id": f"o{number}"} for number in range(20)]
    found = read(*good, {**OWN, "id": "bad", "tests": "x = "}, keep_aside=str(tmp_path / "rejected.jsonl"))
    assert len(found) == 20
    assert json.loads((tmp_path / "rejected.jsonl").read_text())["reason"].startswith("the tests do not parse")
    with pytest.raises(AlignError, match="did you mean 'mbpp'"):
        read(OWN, format="mbp")
    with pytest.raises(AlignError, match="there are two problems 'o1'"):
        read(OWN, OWN)


def test_tests_can_be_made_for_problems_without(read):
    bare = {key: value for key, value in OWN.items() if key != "tests"}
    (problem,) = read(bare, make_tests=lambda record: Assertions("assert f(2) == 4", record["entry_point"]))
    assert problem.tests.code == "assert f(2) == 4"


def test_problems_of_a_benchmark_are_found(read):
    long = "Given a list of integers sorted in no order at all return the second smallest"
    tested = [own({**OWN, "id": "HumanEval/1", "prompt": long, "solution": "def g(x): return sorted(x)[1]"})]
    problems = [
        own({**OWN, "id": "HumanEval/1", "prompt": "another"}),
        own({**OWN, "id": "a", "prompt": f"Task: {long.upper()}, please."}),
        own({**OWN, "id": "b", "prompt": "quite another", "solution": "def g( x ):\n    return sorted(x)[1]"}),
        own({**OWN, "id": "c", "prompt": "Given a list of integers sorted upwards return the first", "solution": None}),
    ]
    found = overlaps(problems, tested)
    assert {id: overlap.reason for id, overlap in found.items()} == {"HumanEval/1": "same id", "a": "ten words", "b": "same text"}
    assert found["a"].words == "given a list of integers sorted in no order at"


def test_humaneval_and_mbpp_overlap_as_little_as_they_should(shared_data):
    humaneval = read_problems(str(shared_data / "humaneval/HumanEval.jsonl.gz"))
    mbpp = read_problems(str(shared_data / "mbpp/sanitized-mbpp.json"))
    assert len(overlaps(mbpp, mbpp)) == 427
    assert len(overlaps(mbpp, humaneval)) < 20


def test_apps_takes_a_value_and_a_list_of_it_as_the_same(read, best):
    record = {"problem_id": 1, "question": "q", "solutions": "[]", "starter_code": ""}
    wrapped = {"fn_name": "f", "inputs": [[2]], "outputs": [[4]]}
    plain = {"fn_name": "f", "inputs": [[2]], "outputs": [4]}
    for pairs, right in ((wrapped, ("[x * x]", "x * x", "(x * x,)", "x * 2.0")), (plain, ("x * x",))):
        (problem,) = read({**record, "input_output": json.dumps(pairs)})
        for value in right:
            assert best.run(f"def f(x): return {value}", problem.tests).passed
        for value in ("[[x * x]]", "[x * x, 1]", "x", "[]", "str(x * x)"):
            assert str(best.run(f"def f(x): return {value}", problem.tests).verdict) == "wrong_answer"
    several = {"fn_name": "f", "inputs": [[2]], "outputs": [[4, 5]]}
    (problem,) = read({**record, "input_output": json.dumps(several)})
    assert str(best.run("def f(x): return 4", problem.tests).verdict) == "wrong_answer"


def test_apps_numbers_are_close_whatever_the_sandbox_says(read):
    record = {"problem_id": 1, "question": "q", "solutions": "[]", "starter_code": ""}
    (read_and_write,) = read({**record, "input_output": json.dumps({"inputs": [""], "outputs": ["0.333333\n"]})})
    (function,) = read({**record, "input_output": json.dumps({"fn_name": "f", "inputs": [[1]], "outputs": [[0.333333]]})})
    with Sandbox(workers=1, tolerance=0) as box:
        assert box.run("print(1 / 3)", read_and_write.tests).passed
        assert box.run("def f(x): return x / 3", function.tests).passed
        assert not box.run("print(1 / 3)", Outputs((("", "0.333333"),))).passed


def test_apps_keys_and_long_integers_are_read_as_its_evaluator_reads_them(read, best):
    pairs = json.dumps({"fn_name": "f", "inputs": [[{"1": 2}]], "outputs": [[{"2": 1}]]})
    record = {"problem_id": 1, "question": "q", "solutions": "[]", "starter_code": ""}
    (problem,) = read({**record, "input_output": pairs})
    assert best.run("def f(d): return {value: key for key, value in d.items()}", problem.tests).passed
    long = '{"fn_name": "f", "inputs": [[6000]], "outputs": [1' + "0" * 6000 + "]}"
    (problem,) = read({**record, "input_output": long})
    assert best.run("def f(n): return 10 ** n", problem.tests).passed
