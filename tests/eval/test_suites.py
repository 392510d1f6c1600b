"""`align eval` on local files with a tiny model: every kind of suite, going on, comparing, mistakes."""

import json
import shutil

import pytest
from conftest import align, align_here

from eval.win_rates.judging import read_pairs

QUESTIONS = [{"question": f"What is {n} plus 1?", "answer": f"so it is\n#### {n + 1}"} for n in range(6)]
PROBLEM = {
    "task_id": "add/0", "prompt": "def add(a, b):\n", "entry_point": "add", "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    for name, records in (
        ("gsm8k", QUESTIONS),
        ("humaneval", [PROBLEM]),
        ("instructions", [{"instruction": f"Say {n}."} for n in range(5)]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def arguments(folder, model, *suites):
    named = [part for suite in suites for part in ("--suite", suite, "--data", f"{suite}={folder / suite}.jsonl")]
    return ("eval", model, *named, "--dtype", "float32", "--max-new-tokens", "8")


@pytest.mark.slow
def test_questions_programs_and_instructions(folder, base_folder, tmp_path):
    suites = ("gsm8k", "humaneval", "instructions")
    first = align(*arguments(folder, base_folder, *suites), "--no-chat", "--output", tmp_path / "first")
    assert first.returncode == 0, first.stderr[-2000:]
    assert [line.split()[0] for line in first.stdout.splitlines() if "% to" in line] == ["gsm8k", "humaneval"]
    outputs = tmp_path / "first/instructions/evaluate/outputs.json"
    pairs = read_pairs(outputs, outputs)
    assert [pair.instruction for pair in pairs] == [f"Say {n}." for n in range(5)]
    manifests = {path: path.read_bytes() for path in (tmp_path / "first").rglob("manifest.json")}
    assert len(manifests) == len(suites)
    again = align(*arguments(folder, base_folder, *suites), "--no-chat", "--output", tmp_path / "first", "--against", tmp_path / "first")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "+0.0%" in again.stdout
    assert {path: path.read_bytes() for path in manifests} == manifests, "what was done is done again"


@pytest.mark.slow
def test_a_model_without_a_chat_template_is_asked_in_plain_text(folder, base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "plain")
    (tmp_path / "plain/chat_template.jinja").unlink()
    found = {}
    for model, *more in ((tmp_path / "plain",), (base_folder, "--no-chat"), (base_folder,)):
        output = tmp_path / "found" / f"{model.name}-{len(more)}"
        done = align(*arguments(folder, model, "instructions"), *more, "--output", output)
        assert done.returncode == 0, done.stderr[-2000:]
        records = json.loads((output / "instructions/evaluate/outputs.json").read_text())
        found[model.name, *more] = [record["output"] for record in records]
    base = base_folder.name
    assert found["plain",] == found[base, "--no-chat"] != found[base,]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--suite", "gsm8"), "--suite gsm8: did you mean 'gsm8k'?"),
        (("--suite", "gsm8k", "--data", "gsm8k"), "--data gsm8k: expected SUITE=FILE"),
        (("--suite", "gsm8k", "--data", "gsm8=x"), "--data gsm8=…: no --suite asks for it: did you mean 'gsm8k'?"),
        (("--suite", "instructions"), "its data is on no hub that align knows: name it with --data instructions=FILE"),
        (("--suite", "gsm8k", "--against", "nowhere"), "nowhere/gsm8k/evaluate: no finished evaluation"),
    ],
)
def test_mistakes(changed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = align_here("eval", "some/model", *changed)
    assert (found.returncode, message in found.stderr) == (2, True), found.stderr
    assert list(tmp_path.iterdir()) == []
