"""Every mistake is one sentence that says what, where, what was expected and the way out; no traceback, and nothing is lost."""

import hashlib
import json
import os
import resource
import shutil
import time

import pytest
from conftest import align, align_here, byte_level_tokenizer, random_model
from mistakes import ALL, PAIRS, RECIPE, lines

from align.errors import AlignError, StageFaultError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A working folder with a good recipe, its data, and a folder for its model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "pairs.jsonl").write_text(lines(*PAIRS))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_TRACEBACK", raising=False)
    return tmp_path


@pytest.fixture
def folder(bare, model):
    """The same with a model."""
    shutil.copytree(model, bare / "model", dirs_exist_ok=True)
    return bare


def contents(folder):
    """Every file with a hash of what it holds."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


IMPORTING = ("command: report of nothing", "command: an unknown GPU")
QUICK = [name for name in ALL if name.startswith(("command: ", "recipe: ")) and name not in IMPORTING]
"""Mistakes that are found before a model is looked at, and before anything is imported that takes seconds."""


@pytest.mark.parametrize("name", QUICK)
def test_a_mistake_in_a_command_or_recipe_is_one_sentence(name, bare, monkeypatch):
    check(ALL[name], bare, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in QUICK])
def test_a_mistake_is_one_sentence_and_loses_nothing(name, folder, monkeypatch):
    check(ALL[name], folder, monkeypatch)


def check(mistake, folder, monkeypatch):
    """Make a mistake: the message is one sentence with the words that it must hold, and no file is changed."""
    for file, content in mistake.files.items():
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    if mistake.spoil is not None:
        mistake.spoil(folder, monkeypatch)
    before = contents(folder)
    done = align_here(*mistake.command)
    said = done.stderr.strip().splitlines()
    assert done.returncode == mistake.status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert [line for line in said if line.startswith("align: ")] == said[-1:]
    for word in mistake.words:
        assert word in said[-1]
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before, "a file was changed or lost"
    assert len(said) == 1 or mistake.command[0] == "train"


def test_there_are_a_hundred():
    assert len(ALL) >= 100


@pytest.mark.slow
def test_the_recipe_that_the_mistakes_spoil_is_good(folder):
    done = align_here("run", "recipe.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "data.train 'pairs.jsonl': 20 of the first 20 records can be used" in done.stdout


@pytest.mark.slow
def test_a_dry_run_says_what_of_the_first_records_cannot_be_used(folder):
    (folder / "pairs.jsonl").write_text(lines(PAIRS[0], "{broken", *PAIRS[1:]))
    done = align_here("run", "recipe.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "19 of the first 20 records can be used; 1 cannot, the first: pairs.jsonl line 2: the line is not JSON" in done.stdout
    assert not (folder / "out" / "train").exists()


@pytest.mark.slow
def test_what_a_training_leaves_out_is_said_counted_and_kept(folder):
    long = {"prompt": "a " * 80, "chosen": "b", "rejected": "c"}
    (folder / "pairs.jsonl").write_text(lines(PAIRS[0], "{broken", long, *PAIRS[1:]))
    done = align_here("train", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    assert (
        "data: 30 of 32 records of pairs.jsonl used; 2 left out, the first: pairs.jsonl line 2: the line is not JSON → out/" in done.stdout
    )
    counted = json.loads((folder / "out" / "data.json").read_text())["train"]
    assert (counted["used"], counted["left_out"], counted["pairs"]) == (30, 2, 30)
    assert [len((folder / "out" / name).read_text().splitlines()) for name in counted["kept_in"]] == [1, 1]
    (folder / "pairs.jsonl").write_text(lines(*PAIRS))
    done = align_here("train", "recipe.yaml")
    assert "data: all 30 records of pairs.jsonl used" in done.stdout
    assert not list((folder / "out").glob("*unreadable*")) + list((folder / "out").glob("rejected-*"))


def test_a_fault_of_ours_is_one_sentence_with_the_path_of_its_traceback(bare, monkeypatch, tmp_path):
    monkeypatch.setattr("align.recipes.find", {}.__getitem__)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = align_here("run", "recipe.yaml")
    assert done.returncode == 1
    [log] = tmp_path.glob("align-fault-*.log")
    assert done.stderr == f"align: a fault of ours: KeyError: 'recipe.yaml'; the traceback is in {log}: please send it with what you did\n"
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("words", [["run", "nothing.yaml", "--traceback"], ["--traceback", "run", "nothing.yaml"]])
def test_a_traceback_is_shown_where_it_is_asked_for(words, bare, monkeypatch):
    monkeypatch.setenv("ALIGN_TRACEBACK", "")  # which the command sets
    done = align_here(*words)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("align: nothing.yaml: no such recipe")


def test_a_secret_in_an_error_that_nobody_foresaw_is_masked(bare, monkeypatch, tmp_path):
    monkeypatch.setattr("align.recipes.find", {}.__getitem__)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = align_here("run", "hf_abcdefghijklmnopqrstuvwxyz")
    assert done.returncode == 1
    [log] = tmp_path.glob("align-fault-*.log")
    assert "hf_abc" not in done.stderr + log.read_text()


def test_a_stage_that_fails_by_a_fault_of_ours_ends_with_1(bare, monkeypatch):
    def fails(*_):
        raise StageFaultError("train failed: see above")

    monkeypatch.setattr("align.recipes.load", fails)
    assert align_here("run", "recipe.yaml").returncode == 1
    monkeypatch.setattr("align.recipes.load", lambda *_: (_ for _ in ()).throw(AlignError("no")))
    assert align_here("run", "recipe.yaml").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["run", "recipe.yaml", "--dry-run", "model.name_or_path=nobody/nothing"], ["run", "recipe.yaml", "--dry-run", "data.train=nobody/nothing"],
        ["estimate", "recipe.yaml", "model.name_or_path=nobody/nothing"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_hub_is_looked_for_once_and_quietly(words, folder):
    """Where nothing answers, libraries of their own try five times over half a minute, with a warning each."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "cache")}
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.monotonic()
    done = align(*words, env=environment)
    assert done.returncode == 2
    assert "the hub cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    waited = time.monotonic() - began[1] - (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began[0])
    assert waited < 20, "mostly waiting"
