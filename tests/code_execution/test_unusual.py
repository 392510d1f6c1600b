"""Unusual programs that are right in plain Python pass at every isolation, or the verdict says why they cannot be judged."""

import fnmatch
import os
import subprocess
import sys

import pytest
from honest import Honest
from unusual import BEYOND_THE_SANDBOX, STARTS_PROCESSES, UNUSUAL

from data_pipelines.code_execution.sandbox import Assertions, Outputs
from data_pipelines.code_execution.sandbox.inside.comparison import same_output

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]


def fails_in_plain_python(program: Honest, folder) -> str:
    """What plain Python says against a program with its tests, run as a file; "" where they pass."""
    outputs = program.tests.cases[0] if isinstance(program.tests, Outputs) else ("", None)
    code = program.tests.code.removeprefix("\ufeff") if isinstance(program.tests, Assertions) else ""
    path = folder / "program.py"
    path.write_text(f"{program.source}\n{code}", encoding="utf-8", newline="")
    command = [sys.executable, "-S", "-X", "utf8", path]
    done = subprocess.run(command, input=outputs[0], capture_output=True, encoding="utf-8", cwd=folder, timeout=60)
    if done.returncode:
        return f"exit {done.returncode}: {done.stderr[-500:]}"
    same = outputs[1] is None or same_output(done.stdout, outputs[1], 1e-6)
    return "" if same else done.stdout[-500:]


def test_there_are_sixty_and_each_is_right_in_plain_python(tmp_path):
    programs = [*UNUSUAL, *BEYOND_THE_SANDBOX, *STARTS_PROCESSES]
    assert len(UNUSUAL) + len(BEYOND_THE_SANDBOX) >= 60
    assert {program.name: said for program in programs if (said := fails_in_plain_python(program, tmp_path))} == {}


@pytest.mark.levels_in_turn
@pytest.mark.parametrize("program", [*UNUSUAL, *BEYOND_THE_SANDBOX], ids=lambda program: program.name)
def test_an_unusual_program_passes_or_is_said_to_be_beyond_the_sandbox(program, sandbox):
    result = sandbox.run(program.source, program.tests)
    assert fnmatch.fnmatchcase(str(result.verdict), program.verdict), result.errors


@pytest.mark.parametrize("program", STARTS_PROCESSES, ids=lambda program: program.name)
def test_a_program_that_starts_another_is_refused_with_the_reason(program, best):
    if best.isolation.level == "limits":
        pytest.skip("limits alone do not keep programs from starting processes")
    assert str(best.run(program.source, program.tests).verdict) == program.verdict


def test_assertions_hold_under_python_without_assertions(tmp_path):
    """`python -O` takes assertions out of what it compiles: not out of the tests."""
    code = """
from data_pipelines.code_execution.sandbox import Assertions, Sandbox
with Sandbox(workers=1) as box:
    for answer in (4, 5):
        print(box.run(f"def f(x): return {answer}", Assertions("def check(g):\\n  assert g(2) == 4\\ncheck(f)", "f", "def h(): pass")).verdict)
"""
    environment = {**os.environ, "PYTHONOPTIMIZE": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.stdout.split() == ["pass", "wrong_answer"], done.stderr
