"""Nothing of one program is in the memory, the files or the descriptors of another: not its text, its input, its results, nor the tests."""

import pytest
from thieves import MARK, SOLUTION, THIEVES, VICTIMS, teller

from data_pipelines.code_execution.sandbox import Assertions, Calls, Limits, Outputs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
TESTS = Assertions("assert f(2) == 4\nassert f(3) == 9\n", "f")
LIMITS = Limits(seconds=30)


@pytest.mark.levels_in_turn
@pytest.mark.parametrize("program", THIEVES)
def test_a_program_finds_nothing_of_those_before_it(program, sandbox):
    assert all(sandbox.run(victim, TESTS).passed for victim in VICTIMS)
    for _ in range(2):  # the second time it is a thief's text that may be found, with the mark in no order that it looks for
        assert not sandbox.run(THIEVES[program], TESTS, LIMITS).passed


def test_the_search_finds_what_is_there(best):
    """A program that has the text in its own memory, and let go of it."""
    own = f"text = {SOLUTION!r}\n"
    assert best.run(own + THIEVES["its own memory, page by page"], TESTS, LIMITS).passed
    assert MARK not in THIEVES["its own memory, page by page"]


@pytest.mark.parametrize("size", [0, 400, 20_000])
def test_a_program_finds_no_input_and_no_output_of_those_before_it(sandbox, size):
    given = "x" * size + "INPUT-MARKsecret" + "y" * size
    tests = Outputs(((given, given),))
    for _ in range(3):
        assert sandbox.run("print(input())", tests).passed
    found = sandbox.run(
        teller("INPUT-" + "MARK", "print(sorted(found - {'secret'}) if 'secret' not in found else 'secret')"),
        Outputs((("", "secret"),)),
        LIMITS,
    )
    assert not found.passed
    assert "secret" not in found.output


def test_a_program_finds_no_value_that_one_before_it_returned(sandbox):
    tests = Calls("f", ((("VALUE-MARKfirst!",), ["VALUE-MARKfirst!"] * 100),))
    for _ in range(3):
        assert sandbox.run("def f(x): return [x] * 100", tests).passed
    found = sandbox.run(teller("VALUE-" + "MARK", "def f(x): return 'first!' in found"), Calls("f", (((1,), True),)), LIMITS)
    assert str(found.verdict) == "wrong_answer"


def test_a_program_finds_nothing_of_its_own_tests(sandbox):
    code = "SECRETS = ['TESTS-MARKinside', 'TESTS-MARKinside' * 500]\nfor n in range(3): assert f(n) == True"
    told = teller("TESTS-" + "MARK", "def f(x): return 'inside' in found")
    assert str(sandbox.run(told, Assertions(code, "f"), LIMITS).verdict) == "wrong_answer"
    calls = Calls("f", (((1,), "TESTS-MARKinside"), ((2,), "TESTS-MARKinside")))
    again = told + "\ndef f(x): return MARK.decode() + 'inside' if 'inside' in found else 0"
    assert str(sandbox.run(again, calls, LIMITS).verdict) == "wrong_answer"
