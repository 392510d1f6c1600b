"""Machines as they are: full disks, no inodes, folders that cannot be written, files in the way, ASCII locales, few descriptors, clocks set back.

Each is a sentence and status 2, or the run goes on; once the machine is mended, the same command ends as an undisturbed run.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import build, contents

ROOT = Path(__file__).parents[2]
TOYS = """
import sys, types
sys.path[:0] = [{tests!r} + "/runs", {tests!r} + "/faults"]
sys.modules["align.checks"] = types.SimpleNamespace(check=lambda run: None)  # which would load torch
import toy_plan
from align import cli, plans
from align.runs import RunFolder
plans.runs_of = lambda recipe: [plans.Run("run", recipe, RunFolder(recipe.training["output_dir"]), toy_plan.stages())]
sys.exit(cli.main())
"""


def toy_run(folder, *before, **environment):
    """`align run` on toy stages, in a process of its own, started by the words of `before` (setpriv, sh -c …)."""
    recipe = folder.parent / f"{folder.name}.yaml"
    recipe.write_text(f"model: {{name_or_path: m}}\ndata: {{train: d}}\ntraining: {{output_dir: {str(folder)!r}}}\n", encoding="utf-8")
    command = [*before, sys.executable, "-c", TOYS.format(tests=str(ROOT / "tests")), "run", str(recipe)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "runs"), str(ROOT / "tests" / "faults")])
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=variables, timeout=120)


def one_sentence(done):
    sentences = [line for line in done.stderr.splitlines() if line.startswith("align: ")]
    assert done.returncode == 2, done.stderr
    assert 1 <= len(sentences) <= 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(sentences)


def outputs(folder):
    """What the stages made; recipe and manifests name the folder."""
    return {name: content for name, content in contents(folder).items() if name != "recipe.yaml" and not name.endswith("manifest.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine") / "run"
    assert toy_run(folder).returncode == 0
    return outputs(folder)


def ends_alike(folder, undisturbed, *before, **environment):
    done = toy_run(folder, *before, **environment)
    assert done.returncode == 0, done.stderr
    assert outputs(folder) == undisturbed


@contextlib.contextmanager
def small_disk(folder, options):
    """A disk of its own at a folder."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk cannot be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("full", ["size=16k,nr_inodes=100", pytest.param("size=24k", marks=pytest.mark.exhaustive), "size=1m,nr_inodes=6"])
def test_a_disk_that_is_full_or_has_no_inodes(tmp_path, undisturbed, full):
    with small_disk(tmp_path / "disk", full) as disk:
        assert "No space left on device" in one_sentence(toy_run(disk / "run"))
        subprocess.run(["mount", "-o", "remount,size=1m,nr_inodes=1000", disk], check=True)
        ends_alike(disk / "run", undisturbed)


@pytest.mark.parametrize("way", ["one", "three/half.tmp", "two/deep", "lock", pytest.param("superseded", marks=pytest.mark.exhaustive)])
def test_a_file_where_a_folder_should_be_or_a_folder_where_a_file(tmp_path, undisturbed, way):
    blocked = tmp_path / "run" / way
    blocked.parent.mkdir(parents=True)
    blocked.mkdir() if way in ("lock", "three/half.tmp") else blocked.write_text("in the way")
    done = toy_run(tmp_path / "run")
    if done.returncode:
        assert str(blocked) in one_sentence(done) or "see above" in done.stderr
    shutil.rmtree(blocked) if blocked.is_dir() and way != "two/deep" else blocked.unlink(missing_ok=True) if blocked.is_file() else None
    ends_alike(tmp_path / "run", undisturbed)


def test_a_folder_that_cannot_be_written(tmp_path, undisturbed):
    if shutil.which("setpriv") is None or os.getuid():
        pytest.skip("needs root and setpriv, to give up what lets root write anywhere")
    unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o555)
    assert f"{tmp_path / 'run'}" in one_sentence(toy_run(tmp_path / "run", *unprivileged))
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "run" / "one").mkdir()
    (tmp_path / "run" / "one").chmod(0o555)
    assert "Permission denied: give a folder that you may write to" in one_sentence(toy_run(tmp_path / "run", *unprivileged))
    (tmp_path / "run" / "one").chmod(0o755)
    ends_alike(tmp_path / "run", undisturbed, *unprivileged)


@pytest.mark.parametrize(
    "machine",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.exhaustive),
        pytest.param({"HOME": None, "LC_ALL": "POSIX"}, marks=pytest.mark.exhaustive),
    ],
    ids=["ascii locale", "ascii output", "no home"],
)
def test_names_are_utf8_whatever_the_machine_says(tmp_path, machine):
    """The command line itself, as it is started by a user."""
    (tmp_path / "données 😀.jsonl").write_text('{"prompt": "é?", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    variables = {name: value for name, value in {**os.environ, "PYTHONPATH": str(ROOT), **machine}.items() if value is not None}
    command = [sys.executable, "-m", "align.cli", "show", "données 😀.jsonl"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=variables, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"1 tree, 2 nodes, 1 edges" in done.stdout


def test_a_run_under_an_ascii_locale(tmp_path, undisturbed):
    ends_alike(tmp_path / "run", undisturbed, LC_ALL="C", PYTHONCOERCECLOCALE="0", HOME=None)


def test_few_descriptors(tmp_path, undisturbed):
    ends_alike(tmp_path / "run", undisturbed, "sh", "-c", 'ulimit -n 64; exec "$0" "$@"')


@pytest.mark.skipif(shutil.which("cc") is None, reason="the layer that sets the clock back needs a C compiler")
def test_a_clock_set_back_between_two_commands(tmp_path, undisturbed):
    layer = build(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("three", "superseded"):  # in the way of the last stage, and of moving that aside
        (tmp_path / "run" / name).write_text("")
    one_sentence(toy_run(tmp_path / "run"))
    for name in ("three", "superseded"):
        (tmp_path / "run" / name).unlink()
    ends_alike(tmp_path / "run", undisturbed, LD_PRELOAD=str(layer), FAULTS_CLOCK=str(-400 * 86400))
