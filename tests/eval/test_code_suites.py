"""Code evaluations: what is counted, what is said where tests cannot judge, what is kept; on real programs in the sandbox."""

import json
from io import StringIO

import pytest
from conftest import align
from rich.console import Console

from align.runs import Journal, Shard
from align.tables import evaluation_notes, evaluation_table
from data_pipelines.code_execution.formats import FORMATS
from data_pipelines.code_execution.sandbox import Limits, Sandbox
from data_pipelines.code_execution.settings import SandboxSettings
from data_pipelines.code_execution.stages import open_sandbox
from data_pipelines.rollouts.protocol import Completion
from eval.code import judge
from eval.report import sections
from eval.report.gather import RunData, read_evaluation
from eval.verdicts import metrics, note_on, pass_at_k

pytestmark = pytest.mark.xdist_group("sandbox")
PROMPT = 'def half(x: float) -> float:\n    """ Half of x. """\n'
RECORD = {
    "task_id": "HumanEval/900", "prompt": PROMPT, "entry_point": "half", "canonical_solution": "    return x / 2\n",
    "test": (
        "import numpy as np\n\ndef assertion(out, exp, atol):\n    assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n\n"
        "def check(candidate):\n    for inp, exp in zip([[1.0], [3.0]], [0.5, 1.5]):\n        assertion(candidate(*inp), exp, 1e-6)\n"
    ),
}  # fmt: skip
SANDBOX = SandboxSettings()
ANSWERS = (
    "Sure!\n```python\ndef half(x):\n    return x / 2\n```\n```python\nprint(half(input()))\n```",
    "```python\ndef half(x):\n    return x\n```",
)


def completion(text, finish_reason="stop"):
    return Completion(text, (), (), finish_reason)


def record_of(*verdicts, sampled=()):
    return {
        "greedy": [{"verdict": one, "program": "x", "response": "y", "finish_reason": "stop"} for one in verdicts],
        "sampled": [{"verdict": one, "program": "x", "response": "y", "finish_reason": "stop"} for one in sampled],
    }


def test_packages_of_the_tests_are_there_and_responses_are_kept():
    problem = FORMATS["humaneval"](RECORD)
    with open_sandbox(SANDBOX, [problem]) as sandbox:
        (judged,) = judge([problem], [[completion(text) for text in ANSWERS]], sandbox, Limits(), chat=True)
    assert [one["verdict"] for one in judged] == ["pass", "wrong_answer"]
    assert [one["response"] for one in judged] == list(ANSWERS)
    assert judged[0]["program"] == "def half(x):\n    return x / 2"


def test_without_the_package_the_harness_errors_are_counted_and_no_score_is_given():
    problem = FORMATS["humaneval"](RECORD)
    with Sandbox(workers=1) as sandbox:
        (judged,) = judge([problem], [[completion(ANSWERS[0], "length")]], sandbox, Limits(), chat=True)
    assert judged[0]["verdict"].startswith("harness_error")
    records = [{"greedy": judged, "sampled": []}]
    assert metrics(records, [1]) == {"harness_errors": 1, "parses": 1.0, "truncated": 1.0, "problems": 1}
    assert note_on(records).startswith("no score: the tests could not judge 1 of 1 programs (harness_error), most often: ")
    assert "numpy" in note_on(records)


def test_a_score_is_over_all_problems_and_harness_errors_stand_beside_it():
    records = [record_of("pass", sampled=("pass", "wrong_answer")), record_of("wrong_answer", sampled=("harness_error(x)", "pass"))]
    records += [record_of("harness_error(OpaqueError: a (b) c)", sampled=("timeout", "timeout"))]
    found = metrics(records, [1, 2, 10])
    assert list(found) == ["pass@1", "sampled pass@1", "sampled pass@2", "parses", "truncated", "harness_errors", "problems"]
    assert found["pass@1"] == 1 / 3
    assert found["sampled pass@1"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert found["sampled pass@2"] == pytest.approx((1.0 + 1.0 + 0.0) / 3)
    assert (found["harness_errors"], found["problems"]) == (2, 3)
    assert note_on(records).startswith("they count as not passed: the tests could not judge 2 of 9 programs")
    assert note_on([record_of("pass")]) is None
    half = [record_of("pass"), record_of("harness_error")]
    assert "pass@1" in metrics(half, [])
    assert "pass@1" not in metrics([*half, record_of("harness_error")], [])


def test_pass_at_k_is_the_share_of_subsets_with_a_pass():
    from itertools import combinations

    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def folder_with(path, records):
    journal = Journal(path / "programs", Shard(0, 1))
    journal.append((f"p{number}", record) for number, record in enumerate(records))
    journal.close()
    (path / "metrics.json").write_text(json.dumps(metrics(records, [])))
    return read_evaluation("evaluate", path)


def printed(evaluation):
    console = Console(width=160, record=True, file=StringIO())
    console.print(evaluation_table({"humaneval+": evaluation}, {}))
    return "\n".join([console.export_text(), *evaluation_notes({"humaneval+": evaluation})])


def test_what_tests_cannot_judge_is_printed_and_reported(tmp_path):
    none = folder_with(tmp_path / "none", [record_of("harness_error(import_error: numpy)")] * 3)
    some = folder_with(tmp_path / "some", [record_of("pass"), record_of("wrong_answer"), record_of("harness_error(x)")])
    good = folder_with(tmp_path / "good", [record_of("pass"), record_of("wrong_answer")])
    assert none.items == {}
    assert len(some.items) == 3
    assert "humaneval+: no score: the tests could not judge 3 of 3 programs (harness_error), most often: import_error: numpy" in printed(
        none
    )
    assert "0.0%" not in printed(none)
    assert "33.3%" in printed(some)
    assert "they count as not passed: the tests could not judge 1 of 3" in printed(some)
    assert "humaneval+: no harness errors" in printed(good)
    for evaluation, sentence in ((none, "no score: the tests could not judge 3"), (some, "the tests could not judge 1 of 3"), (good, None)):
        run = RunData("run", tmp_path, {}, evaluations=[evaluation])
        page = "".join(sections.results([run]))
        assert (sentence or "harness_errors 0") in page
        assert ("warning" in page) == (sentence is not None)


@pytest.mark.slow
def test_align_eval_on_a_benchmark_whose_tests_import_numpy(base_folder, tmp_path):
    (tmp_path / "plus.jsonl").write_text(json.dumps(RECORD) + "\n")
    command = ("eval", base_folder, "--suite", "humaneval+", "--data", f"humaneval+={tmp_path / 'plus.jsonl'}", "--max-new-tokens", "8")
    done = align(*command, "--dtype", "float32", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "humaneval+: no harness errors" in done.stdout
    stage = tmp_path / "out/humaneval+/evaluate"
    assert json.loads((stage / "metrics.json").read_text())["harness_errors"] == 0
    (line,) = (stage / "responses.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {"task_id", "kind", "response", "program", "verdict", "finish_reason"}
    missing = {**RECORD, "test": RECORD["test"].replace("numpy", "numpy_is_not_here")}
    (tmp_path / "plus.jsonl").write_text(json.dumps(missing) + "\n")
    done = align(*command, "--output", tmp_path / "missing")
    assert done.returncode == 2
    assert (
        "the tests of 'HumanEval/900' import numpy_is_not_here, which is not installed here: pip install numpy_is_not_here" in done.stderr
    )
    assert not (tmp_path / "missing/humaneval+/evaluate/programs").exists()
