"""A program's doing is its own verdict: none gets the harness's, ends the tester, or leaves a verdict that cannot be written."""

import fnmatch
import json
import os

import psutil
import pytest
from escapes import ESCAPES

from data_pipelines.code_execution.sandbox import Assertions, Limits, Sandbox
from data_pipelines.code_execution.sandbox.isolation import Isolation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
TESTS = Assertions("assert f(2) == 4", "f")


def the_tester(box: Sandbox) -> int:
    """The first process that a unit has started."""
    unit = box._free[0].get()
    box._free[0].put(unit)
    return unit._processes[0].pid


@pytest.mark.levels_in_turn
@pytest.mark.parametrize("program", ESCAPES, ids=lambda program: program.name)
def test_a_program_cannot_escape_its_verdict(program, sandbox):
    tester = the_tester(sandbox)
    limits = Limits(seconds=1.0 if program.verdict[0] in "t[" else 20.0, memory=(192 if program.verdict[0] == "m" else 512) << 20)
    result = sandbox.run(program.source, program.tests, limits)
    said = str(result.verdict)
    assert fnmatch.fnmatchcase(said, program.verdict)
    assert not said.startswith(("pass", "harness_error"))
    assert len(json.dumps(said)) < 2500
    json.dumps([str(test.verdict) for test in result.tests]).encode()
    said.encode()
    assert sandbox.run("def f(x): return x * x", TESTS).passed
    if result.verdict.kind != "timeout":
        assert the_tester(sandbox) == tester, "the tester has survived it"


def test_tests_that_answers_have_filled_leave_room_for_the_next(best):
    """What the tests may use is counted from what is in use when a program's turn comes."""
    filling = Assertions("kept = [f(n) for n in range(10**6)]\nassert kept", "f")
    for _ in range(2):
        verdict = best.run("def f(x): return 'a' * 10**7", filling, Limits(seconds=20, memory=128 << 20)).verdict
        assert str(verdict) == "memory(in the tests)"
        assert best.run("def f(x): return x * x", TESTS, Limits(memory=64 << 20)).passed
    long = Assertions(f"TEXT = {'x' * 5_000_000!r}\nassert f(TEXT[:3]) == 'xxx'", "f")
    assert best.run("def f(x): return x", long, Limits(memory=64 << 20)).passed


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot ask whose a process is that hides")
@pytest.mark.parametrize("how", ["filters", "limits"])
def test_no_process_of_the_same_user_can_look_into_the_tester(how, reasons):
    if reasons[how]:
        pytest.skip(reasons[how])
    with Sandbox(Isolation(how), workers=1) as box:
        assert box.run("def f(x): return x * x", TESTS).passed
        tester = the_tester(box)
        assert psutil.Process(tester).uids().real != 0
        assert os.stat(f"/proc/{tester}/mem").st_uid == 0, "the kernel gives to root what a process that hides has in /proc"
