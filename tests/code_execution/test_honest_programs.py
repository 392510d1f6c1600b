"""Programs as people write them get the verdict that plain execution and the benchmarks' own evaluators give them, at every isolation."""

import fnmatch
import json

import pytest
from conftest import SHARED
from honest import HONEST

from data_pipelines.code_execution.sandbox import Assertions, Outputs, Sandbox
from data_pipelines.code_execution.sandbox.isolation import Isolation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
CASES = SHARED / "cases" / "programs.jsonl"


@pytest.fixture(scope="module")
def with_numpy(mechanism):
    pytest.importorskip("numpy")
    with Sandbox(Isolation(mechanism), workers=1, packages=["numpy"]) as box:
        yield box


@pytest.mark.levels_in_turn
@pytest.mark.parametrize("program", HONEST, ids=lambda program: program.name)
def test_an_honest_program_gets_its_verdict(program, sandbox, request):
    box = request.getfixturevalue("with_numpy") if program.packages else sandbox
    result = box.run(program.source, program.tests)
    assert fnmatch.fnmatchcase(str(result.verdict), program.verdict), result.errors


@pytest.mark.skipif(not CASES.is_file(), reason="the folder with cases (../shared/cases) is not here")
def test_the_programs_that_users_reported_get_their_verdicts(sandbox, request):
    wrong = []
    for case in map(json.loads, CASES.read_text(encoding="utf-8").splitlines()):
        box = request.getfixturevalue("with_numpy") if case.get("packages") else sandbox
        tests = Assertions(case["asserts"]) if "asserts" in case else Outputs(tuple(map(tuple, case["stdin_tests"])))
        verdict = box.run(case["program"], tests).verdict
        if verdict.kind not in case["expect"].replace("pass-with-tolerance", "pass").split(" or "):
            wrong.append((case["name"], str(verdict), case["expect"]))
    assert wrong == []
