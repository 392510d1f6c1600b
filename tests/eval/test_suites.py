"""`align eval` on local files with a tiny model: every kind of suite, going on, comparing, mistakes."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import align, align_here, needs_vllm

from eval.win_rates.judging import read_pairs

QUESTIONS = [{"question": f"What is {n} plus 1?", "answer": f"so it is\n#### {n + 1}"} for n in range(6)]
PROBLEM = {
    "task_id": "add/0", "prompt": "def add(a, b):\n", "entry_point": "add", "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}  # fmt: skip


HARNESS_TASK = {
    "task": "tiny", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
    "doc_to_choice": ["1", "2", "3"], "doc_to_target": 0, "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
COUNTING = """
import importlib.abc, importlib.machinery, os, sys

class Loader(importlib.abc.Loader):
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
        for name in ("TransformersEngine", "VllmEngine"):
            if name in vars(module):
                start = vars(module)[name].__init__
                def counted(self, *args, start=start, name=name, **options):
                    with open(os.environ["LOADED"], "a") as file:
                        print(name, file=file)
                    start(self, *args, **options)
                vars(module)[name].__init__ = counted

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("data_pipelines.rollouts.transformers_engine", "data_pipelines.rollouts.vllm_engine"):
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            spec.loader = Loader(spec.loader)
            return spec

sys.meta_path.insert(0, Finder())
"""
"""Notes every engine that is opened, in whatever process."""


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
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=[needs_vllm, pytest.mark.xdist_group("vllm")])])
def test_a_model_is_loaded_once_for_all_suites(engine, folder, base_folder, tmp_path, monkeypatch):
    """Suites of ours and of lm-evaluation-harness; the numbers are those of each suite by itself, which transformers shows for both."""
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "sitecustomize.py").write_text("import counting\n")
    (tmp_path / "tiny.yaml").write_text(
        json.dumps({**HARNESS_TASK, "dataset_kwargs": {"data_files": {"test": str(folder / "gsm8k.jsonl")}}})
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    monkeypatch.setenv("LOADED", str(tmp_path / "loaded"))
    suites, harness = ("gsm8k", "humaneval", "instructions"), ("--suite", f"lm:{tmp_path}/tiny.yaml")
    asked = (*arguments(folder, base_folder, *suites), *harness, "--no-chat", "--engine", engine)
    done = align(*asked, "--output", tmp_path / "all")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "loaded").read_text().split() == [{"transformers": "TransformersEngine", "vllm": "VllmEngine"}[engine]]
    if engine == "vllm":
        return
    for part in (
        (*arguments(folder, base_folder, "instructions"),),
        ("eval", base_folder, *harness, "--dtype", "float32", "--max-new-tokens", "8"),
    ):
        alone = align(*part, "--no-chat", "--engine", engine, "--output", tmp_path / "alone")
        assert alone.returncode == 0, alone.stderr[-3000:]
    assert len((tmp_path / "loaded").read_text().split()) == 3
    for name in ("instructions/evaluate/outputs.json", "lm-tiny/evaluate/metrics.json"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


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
        (
            ("--suite", "gsm8k", "--suite", "my/gsm8k.yaml"),
            "--suite my/gsm8k.yaml: its results are called 'gsm8k', as those of --suite gsm8k: rename or drop one",
        ),
        (("--suite", "instructions"), "its data is on no hub that align knows: name it with --data instructions=FILE"),
        (("--suite", "gsm8k", "--against", "nowhere"), "nowhere/gsm8k/evaluate: no finished evaluation"),
    ],
)
def test_mistakes(changed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = align_here("eval", "some/model", *changed)
    assert (found.returncode, message in found.stderr) == (2, True), found.stderr
    assert list(tmp_path.iterdir()) == []
