"""The program in an answer: whatever stands around a right program, it is judged right; nothing makes a wrong one right."""

import json
import random
from pathlib import Path

import pytest
import yaml
from conftest import SHARED

from data_pipelines.code_execution.extraction import program_of
from data_pipelines.code_execution.formats import FORMATS, own
from data_pipelines.code_execution.problems import read_problems
from data_pipelines.code_execution.sandbox import Sandbox
from data_pipelines.code_execution.statements import statements
from data_pipelines.code_execution.syntax import normalised

pytestmark = pytest.mark.xdist_group("sandbox")
ANSWERS = yaml.safe_load((Path(__file__).parent / "answers.yaml").read_text(encoding="utf-8"))
ADD = {"prompt": "Add two numbers.", "entry_point": "add", "tests": "assert add(1, 2) == 3"}


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["name"])
def test_an_answer_is_judged_by_its_program(case, best):
    problem = own({**ADD, "tests": case.get("tests", ADD["tests"])})
    program = program_of(case["answer"], problem, chat=True)
    assert str(best.run(program, problem.tests).verdict).startswith(case.get("verdict", "pass")), program


def test_the_cases_of_the_world(best):
    path = SHARED / "cases" / "extraction.jsonl"
    if not path.exists():
        pytest.skip("the folder with cases (../shared/cases) is not here")
    for case in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        problem = own({"prompt": "-", "tests": case["tests"], "entry_point": case["entry_point"]})
        program = program_of(case["answer"], problem, chat=True)
        assert best.run(program, problem.tests).verdict.kind == case["expect"], case["name"]


def outputs(*cases):
    return own({"prompt": "-", "tests": {"outputs": [list(case) for case in cases]}})


SUM = "a, b = map(int, input().split())\nprint(a + b)"
SCRIPTS = {
    "an input and an output sample after": f"```python\n{SUM}\n```\nInput:\n```\n1 2\n```\nOutput:\n```\n3\n```",
    "samples that look like programs": f"```\nn = 5\n```\n```python\n{SUM}\n```\n```\nx = 3\n```",
    "a shell block after": f"```python\n{SUM}\n```\n```bash\necho 1 2 | python a.py\n```",
    "a function and its call apart": (
        "```python\ndef solve():\n    a, b = map(int, input().split())\n    print(a + b)\n```\nCall it:\n```python\nsolve()\n```"
    ),
    "a function and the reading apart": (
        "```python\ndef add(a, b):\n    return a + b\n```\n```python\na, b = map(int, input().split())\nprint(add(a, b))\n```"
    ),
    "imports apart": "```python\nimport sys\n```\n```python\na, b = map(int, sys.stdin.read().split())\nsys.stdout.write(str(a + b))\n```",
    "an example that reads nothing after": f"```python\n{SUM}\n```\nFor instance:\n```python\nprint(1 + 2)\n```",
    "a test that replaces standard input after": (
        f"```python\ndef main():\n    {SUM.replace(chr(10), chr(10) + '    ')}\n\nif __name__ == '__main__':\n    main()\n```\n"
        "```python\nimport io, sys\nsys.stdin = io.StringIO('1 2')\nmain()\n```"
    ),
    "a main guard": f"```python\ndef main():\n    {SUM.replace(chr(10), chr(10) + '    ')}\n\nif __name__ == '__main__':\n    main()\n```",
    "wrong, then fixed": f"```python\n{SUM.replace('+', '-')}\n```\nFixed:\n```python\n{SUM}\n```",
    "no fences": f"The program:\n\n{SUM}\n\nIt reads two numbers.",
    "no fences, nothing else": SUM,
    "another language after": f"```python\n{SUM}\n```\n```cpp\nint main() {{ return 0; }}\n```",
    "thoughts before": f"<think>```python\nprint(0)\n```</think>{SUM}",
    "in a list": "1. So:\n   ```python\n   " + SUM.replace("\n", "\n   ") + "\n   ```\n",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_whole_program_is_the_last_one_that_is_a_program(name, best):
    problem = outputs(("1 2\n", "3\n"), ("4 5\n", "9\n"))
    program = program_of(SCRIPTS[name], problem, chat=True)
    assert best.run(program, problem.tests).passed, program


def test_a_program_that_reads_nothing_is_one_too(best):
    problem = outputs(("", "3"))
    assert best.run(program_of("```python\nprint(1 + 2)\n```\n```\n3\n```", problem, chat=True), problem.tests).passed


APPS = {
    "problem_id": 1, "question": "Add.", "starter_code": "class Solution:\n    def add(self, nums: List[int]) -> int:\n        ",
    "input_output": json.dumps({"fn_name": "add", "inputs": [[[1, 2]]], "outputs": [3]}),
}  # fmt: skip
METHODS = {
    "as asked for": "```python\nclass Solution:\n    def add(self, nums: List[int]) -> int:\n        return sum(nums)\n```",
    "with an example": (
        "```python\nclass Solution:\n    def add(self, nums: List[int]) -> int:\n        return sum(nums)\n\n"
        "print(Solution().add(list(map(int, input().split()))))\n```\n```python\ns = Solution()\ns.add([1])\n```"
    ),
    "the signature again, without a body": (
        "```python\nclass Solution:\n    def add(self, nums):\n        return sum(nums)\n```\n"
        "```python\nclass Solution:\n    def add(self, nums: List[int]) -> int:\n        ...\n```"
    ),
    "a function": "```python\ndef add(nums: List[int]) -> int:\n    return sum(nums)\n```",
    "the method alone": "```python\ndef add(self, nums: List[int]) -> int:\n    return self is not None and sum(nums)\n```",
    "the body alone": "```python\nreturn sum(nums)\n```",
    "a helper apart": (
        "```python\ndef total(nums):\n    return sum(nums)\n```\n```python\nclass Solution:\n    def add(self, nums):\n        return total(nums)\n```"
    ),
    "names that contests import": (
        "```python\nclass Solution:\n    def add(self, nums):\n        heap = nums[:]\n        heapify(heap)\n"
        "        return sum(heappop(heap) for _ in nums) + len(defaultdict(int))\n```"
    ),
    "a base class apart": (
        "```python\nclass Base:\n    def total(self, nums):\n        return sum(nums)\n```\n"
        "```python\nclass Solution(Base):\n    def add(self, nums):\n        return self.total(nums)\n```"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_found_in_its_class_and_outside(name, best):
    problem = FORMATS["apps"](APPS)
    program = program_of(METHODS[name], problem, chat=True)
    assert best.run(program, problem.tests).passed, program


HALF = {
    "task_id": "HumanEval/999", "entry_point": "f", "canonical_solution": "    return half(x[0])\n",
    "prompt": 'from typing import List\n\n\ndef half(x: int) -> int:\n    return x // 2\n\n\ndef f(x: List[int]) -> int:\n    """ Halve it. """\n',
    "test": "def check(candidate):\n    assert candidate([4]) == 2\n    assert half(candidate([8])) == 2\n",
}  # fmt: skip
BODY = "    return half(x[0])\n"
CONTINUATIONS = {
    "the body": BODY,
    "no line end": BODY.rstrip("\n"),
    "a closing fence": BODY + "```\n\nThis halves it.",
    "a closing fence at the end of its line": BODY.rstrip("\n") + "```\n",
    "an end-of-text token": BODY.rstrip("\n") + "<|endoftext|>def f(x): return 0",
    "a print": BODY + "\n\nprint(f([int(input())]))\n",
    "tests, one wrong": BODY + "\n\nassert f([4]) == 3\n",
    "the same function once more, wrong": BODY + "\n\ndef f(x: List[int]) -> int:\n    return 0\n",
    "other functions": BODY + "\n\ndef g(x):\n    return f(x)\n\n\nclass A:\n    y = f(\n",
    "a helper behind it": "    return quarter(x[0]) * 2\n\n\ndef quarter(x):\n    return x // 4\n\n\nprint(f(input()))\n",
    "a comment and prose": BODY + "\n# Test it\nNow let me explain: it",
    "a main guard cut off": BODY + "\nif __name__ == '__main__':\n    print(f([",
    "blank lines in the body": "    y = x[0]\n\n\n    return half(y)\n",
    "the whole function": "```python\ndef f(x: List[int]) -> int:\n    return half(x[0])\n```",
    "the whole function without a fence": "\ndef f(x: List[int]) -> int:\n    return half(x[0])\n",
}  # fmt: skip


@pytest.mark.parametrize("name", CONTINUATIONS)
def test_a_continuation_ends_where_its_function_is_complete(name, best):
    problem = FORMATS["humaneval"](HALF)
    program = program_of(CONTINUATIONS[name], problem, chat=False)
    assert best.run(program, problem.tests).passed, program
    assert "assert" not in program
    assert "print" not in program


def test_a_continuation_may_be_a_class_with_the_function(best):
    record = {"task_id": 7, "text": "Halve.", "code": "def halve(x):\n    return x // 2", "test_list": ["assert halve(4) == 2"]}
    problem = FORMATS["mbpp"](record)
    program = program_of("class Solution:\n    def halve(self, x):\n        return x // 2\n", problem, chat=False)
    assert best.run(program, problem.tests).passed, program


def test_a_chat_models_body_completes_the_prompt(best):
    problem = FORMATS["humaneval"](HALF)
    for body in ("    return half(x[0])", "return half(x[0])", "y = x[0]\nif y:\n    return half(y)\nreturn 0"):
        for answer in (f"```python\n{body}\n```", f"Fill in:\n```\n{body}\n```\nThat is all.", body):
            program = program_of(answer, problem, chat=True)
            assert best.run(program, problem.tests).passed, program


def test_a_program_is_run_as_it_was_written_where_it_does_nothing_but_define():
    text = "# first\nimport math\n\nN = [1, 2]  # numbers\n\n\ndef add(a, b):  # add\n    return a + b\n\n\nif __name__ == '__main__':\n    add(1, 2)"
    assert program_of(f"```python\n{text}\n```", own(ADD), chat=True) == text


def test_names_that_tests_use_beside_the_entry_point_are_kept(best):
    tests = "assert longest([Pair(1, 2), Pair(2, 3)]) == 2"
    problem = own({"prompt": "-", "entry_point": "longest", "tests": tests})
    answer = "```python\nclass Pair(tuple):\n    def __new__(cls, a, b):\n        return tuple.__new__(cls, (a, b))\n\nprint(Pair(1, 2))\n```\n```python\ndef longest(pairs):\n    return len(pairs)\n```"
    assert "class Pair" in program_of(answer, problem, chat=True)
    without = own({"prompt": "-", "tests": "assert double(2) == 4 and half(2) == 1"})
    answer = "```python\ndef half(x):\n    return x // 2\n```\n```python\ndef double(x):\n    return 2 * x\n\nprint(double(input()))\n```"
    assert best.run(program_of(answer, without, chat=True), without.tests).passed


def test_extraction_never_fails_and_is_quick():
    rng = random.Random(0)
    parts = [
        "```",
        "```python\n",
        "~~~",
        "def add(a, b):",
        "\n",
        "    return a",
        "<think>",
        "</think>",
        '"""',
        "`",
        "(",
        "\t",
        "\x00",
        "\\",
        "é",
        "add = 1",
        "> ",
        "- ",
    ]
    problem, listed = own(ADD), FORMATS["humaneval"](HALF)
    for _ in range(60):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(60)))
        for chat in (True, False):
            assert isinstance(program_of(text, problem, chat), str)
            assert isinstance(program_of(text, listed, chat), str)
        assert isinstance(program_of(text, outputs(("1", "2")), chat=True), str)
    for text in (
        "(" * 100_000,
        "```\n" * 4000,
        '```python\n"""\n' * 500,
        "x = " + "-" * 50_000 + "1",
        "a```\n" * 2000,
        "if you say so\n" * 5000,
    ):
        assert isinstance(program_of(text, problem, chat=True), str)


def test_names_are_those_of_the_module():
    (one,) = statements("def f(x, y=N):\n    z = g(x)\n    return [h(i) for i in z]")
    assert (one.binds, one.reads, one.reads_at_once) == ({"f"}, {"N", "g", "h"}, {"N"})
    (one,) = statements("for i in range(3):\n    table[i] = i")
    assert (one.changes, "table" in one.reads) == ({"table"}, True)


def test_equal_programs_are_equal_texts():
    assert normalised("def f( x ):\n    # why\n    return (x)") == normalised("def f(x): return x")
    assert normalised("def f(x) return") == "def f(x) return"


def shapes(program, call):
    """Five answers that chat models write around a program."""
    example = f"```python\nprint({call}(*map(int, input().split())))\n```"
    listed = "\n".join(f"   {line}" if line.strip() else "" for line in f"```python\n{program}\n```".split("\n"))
    return [
        f"Here is the solution:\n\n```python\n{program}\n```\n\nExample usage:\n{example}\nOutput:\n```\n3\n```\n",
        f"<think>\nMaybe\n```python\ndef {call}(*args): return 0\n```\n</think>\n```python\n{program}\n\nassert {call}() == 'never'\n```\n```bash\npython a.py\n```",
        f"1. Write it:\n\n{listed}\n\n2. Run it:\n\n   ```python\n   {call}()\n   ```\n",
        f'```py\n{program}```\nIt works as follows. First, `{call}` is called.\n```json\n{{"a": 1}}\n```\n',
        f"Sure!\n\n{program}\n\nThis solves the problem; call it as `{call}(x)`.\n",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["humaneval/HumanEval.jsonl.gz", "mbpp/sanitized-mbpp.json"])
def test_reference_solutions_pass_in_five_shapes(file, shared_data):
    jobs = []
    for problem in read_problems(str(shared_data / file)):
        for number, answer in enumerate(
            shapes(problem.solution.replace("\r\n", "\n").replace("\t", "    ").strip("\n"), problem.entry_point)
        ):
            jobs.append((problem, number, program_of(answer, problem, chat=True)))
    with Sandbox() as box:
        results = box.run_batch((program, problem.tests) for problem, _, program in jobs)
        failed = [
            (problem.id, number, str(result.verdict))
            for (problem, number, _), result in zip(jobs, results, strict=True)
            if not result.passed
        ]
    assert not failed


@pytest.mark.slow
def test_reference_solutions_pass_as_continuations(shared_data):
    jobs = []
    for problem in read_problems(str(shared_data / "humaneval/HumanEval.jsonl.gz")):
        body = problem.record["canonical_solution"]
        for tail in (
            "",
            "```\nDone.",
            f"\n\nprint({problem.entry_point}(input()))\n",
            f"\n\ndef {problem.entry_point}(*args):\n    return None\n\ndef",
        ):
            jobs.append((problem, program_of(body + tail, problem, chat=False)))
    with Sandbox() as box:
        results = box.run_batch((program, problem.tests) for problem, program in jobs)
        failed = [(problem.id, str(result.verdict)) for (problem, _), result in zip(jobs, results, strict=True) if not result.passed]
    assert not failed
