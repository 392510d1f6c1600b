"""Ours are imported, wherever a run is started: not a folder `align/` or files of the same names in the working folder."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, byte_level_tokenizer, random_model

from align import imports

STRANGE = 'raise SystemExit("imported from the working folder")\n'
OURS = ("align/__init__.py", "align/cli.py", "eval.py", "data_pipelines.py", "datasets.py", "accelerate.py", "torch/__init__.py")
OWN = '''
"""A loss of the user's own."""
import torch.nn.functional as F


def mine(chosen_scores, rejected_scores, *, beta: float = 0.1):
    """DPO."""
    return -F.logsigmoid(beta * (chosen_scores - rejected_scores))
'''


@pytest.fixture
def strange(tmp_path):
    """A folder whose modules have the names of ours and of libraries, and that holds a loss of the user's own."""
    for file in OURS:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(STRANGE)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def python(folder, *words, **environment):
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env={**variables, **environment}, capture_output=True, text=True, timeout=600
    )  # fmt: skip


LOOK = """
import sys
sys.path[:0] = ["", {root!r}]
from align.imports import put_ours_first
put_ours_first()
import align, data_pipelines, eval, own
print(align.__file__, data_pipelines.__file__, eval.__file__, own.__file__)
"""


def test_the_working_folder_comes_last(strange):
    """Also where ours are found by a finder alone, as in an editable install, and the user's own are found after them."""
    code = LOOK.format(root=str(ROOT)).replace('sys.path[:0] = ["", ', "sys.path[:0] = [").replace("import sys", "import os, sys", 1)
    done = python(strange, "-c", code.replace("put_ours_first()\nimport", "sys.path.insert(0, '')\nput_ours_first()\nimport"))
    assert done.returncode == 0, done.stderr
    folders = done.stdout.split()
    assert folders[:3] == [str(ROOT / name / "__init__.py") for name in ("align", "data_pipelines", "eval")]
    assert folders[3] == str(strange / "own.py")


@pytest.mark.parametrize("given", [None, ".", "{here}", "{here}:/elsewhere"])
def test_processes_are_told_where_ours_are(given, strange, monkeypatch):
    monkeypatch.chdir(strange)
    path = None if given is None else given.format(here=strange)
    environment = imports.importing_ours({"A": "1", **({} if path is None else {"PYTHONPATH": path})})
    assert environment["PYTHONSAFEPATH"] == "1"
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    assert not {str(strange), "."} & set(paths)
    assert imports.is_installed() or paths[0] == str(ROOT)
    assert ("/elsewhere" in paths) == (given is not None and "elsewhere" in given)
    done = python(strange, "-m", "align.runs.worker", **{**environment, "PATH": os.environ["PATH"]})
    assert "imported from the working folder" not in done.stderr
    assert "not enough values to unpack" in done.stderr  # the worker was reached, and lacks its arguments


def test_the_checkouts_own_folder_is_left_as_it_is(monkeypatch):
    monkeypatch.chdir(ROOT)
    before = list(sys.path)
    imports.put_ours_first()
    assert sys.path == before


def test_a_folder_that_was_deleted_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    imports.put_ours_first()
    assert imports.importing_ours({})["PYTHONSAFEPATH"] == "1"


@pytest.fixture
def recipe(strange):
    random_model().save_pretrained(strange / "model")
    byte_level_tokenizer().save_pretrained(strange / "model")
    rows = [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " Who knows?"} for i in range(8)]
    (strange / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (strange / "recipe.yaml").write_text(
        "model: {name_or_path: ./model, dtype: float32}\ndata: {train: pairs.jsonl}\n"
        "training: {output_dir: out, max_steps: 1, bf16: false, report_to: none, max_length: 64, loss_type: ['own:mine'], monitor_3d: false}\n"
    )
    return strange


START = "import sys; sys.argv[1:] = {words!r}; from align.cli import main; sys.exit(main())"


@pytest.mark.slow
@pytest.mark.parametrize(
    "forks", [pytest.param("1", marks=pytest.mark.exhaustive), pytest.param("0", id="interpreters")]
)  # fmt: skip
def test_a_run_imports_ours_and_finds_the_users_own_loss(forks, recipe):
    """As the console script starts it, which puts its own folder first; stages as forks, and as interpreters of their own."""
    code = START.format(words=["run", "recipe.yaml"])
    if forks == "0":
        code = f"import align.runs.driver as d; d.can_fork = lambda environment: False; {code}"
    done = python(recipe, "-P", "-c", code, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "own:mine" in done.stdout + done.stderr
    assert (recipe / "out" / "train" / "model").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("words", [["-m", "align.cli", "train"], ["-m", "align.train"]])
def test_a_module_started_by_name_imports_ours(words, recipe):
    """Python itself puts the working folder first here: its `eval.py` is not taken, its folder `align/` would be."""
    for file in ("__init__.py", "cli.py"):
        (recipe / "align" / file).unlink()
    (recipe / "align").rmdir()
    for library in ("datasets.py", "accelerate.py", "torch/__init__.py"):  # what Python's own start of a module may import
        (recipe / library).unlink()
    done = python(recipe, *words, "recipe.yaml", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_accelerate_launch_imports_ours_under_a_safe_path(recipe):
    words = ["-P", "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    done = python(recipe, *words, "-m", "align.train", "recipe.yaml", PYTHONPATH=str(ROOT), PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr[-3000:]
