"""Runs of toy stages in real processes: what is re-run, what an interruption costs, what is said."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kill_run import stage_processes
from toy_stages import plan

from align.errors import AlignError, InterruptedRunError
from align.runs import RunFolder, Shard, Stage, assess, execute
from align.runs.stop_file import STOP_FILE

HERE = Path(__file__).parent
HALF_A_SECOND = 0.5


@pytest.fixture(autouse=True)
def _toys_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def run(folder, stages, **options):
    said = []
    finished = execute(stages, RunFolder(folder), say=said.append, **options)
    said = [line for line in said if not line.endswith((" begins", " goes on"))]
    return finished, [line.split("  ")[0].strip() + ": " + line.split("  ")[-1].strip() for line in said]


def kinds(folder, stages):
    return [state.kind for state in assess(stages, RunFolder(folder))]


def result(folder):
    return json.loads((folder / "three" / "copy.json").read_text())["total"]


def test_two_stages_of_one_name_are_refused_before_anything_is_done(tmp_path):
    first, *others = plan()
    with pytest.raises(AlignError, match="two stages of the run are called 'one'"):
        execute([first, first, *others], RunFolder(tmp_path))
    assert not (tmp_path / "one").exists()


def test_stages_run_in_order_once_and_leave_manifests(tmp_path):
    assert kinds(tmp_path, plan()) == ["run", "wait", "wait"]
    finished, _ = run(tmp_path, plan())
    assert finished
    assert result(tmp_path) == 285
    assert kinds(tmp_path, plan()) == ["done", "done", "done"]
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["versions"]["torch"]
    assert manifest["settings"] == {"count": 10, "pause": 0.0}
    _, said = run(tmp_path, plan())
    assert said == ["one: done already", "two/deep: done already", "three: done already"]


def test_a_change_re_runs_exactly_what_depends_on_it(tmp_path):
    run(tmp_path, plan())
    _, said = run(tmp_path, plan(times=2))
    assert [line.split(":")[0] for line in said if "already" not in line] == ["two/deep", "three"]
    assert result(tmp_path) == 570


@pytest.mark.slow
def test_a_change_back_takes_the_old_results_back(tmp_path):
    run(tmp_path, plan())
    run(tmp_path, plan(times=2))
    _, said = run(tmp_path, plan())
    assert [line for line in said if "already" not in line] == [
        "two/deep: done before with these settings: taken back",
        "three: done before with these settings: taken back",
    ]
    assert result(tmp_path) == 285


def test_a_stage_whose_output_did_not_change_stops_the_ripple(tmp_path):
    run(tmp_path, plan(pause=0.0))
    _, said = run(tmp_path, [plan(pause=0.001)[0], *plan()[1:]])
    assert [line.split(":")[0] for line in said if "already" not in line] == ["one"]


@pytest.mark.slow
def test_a_deleted_output_is_made_again_only_where_it_is_needed(tmp_path):
    run(tmp_path, plan())
    (tmp_path / "two" / "deep" / "total.json").unlink()
    assert kinds(tmp_path, plan()) == ["done", "done", "done"]
    changed = [*plan()[:2], plan(pause=0.001)[2]]
    assert kinds(tmp_path, changed) == ["done", "run", "run"]
    run(tmp_path, changed)
    assert result(tmp_path) == 285


def test_stages_that_name_a_process_share_it(tmp_path):
    stages = [
        Stage(name, "toy_stages:process", resources={"process": "x"} if name != "alone" else {}) for name in ("one", "alone", "two/deep")
    ]
    _, said = run(tmp_path, stages)
    one, alone, two = (json.loads((tmp_path / stage.name / "process.json").read_text()) for stage in stages)
    assert one == two != alone
    assert [line.split(":")[0] for line in said] == ["one", "two/deep", "alone"]
    assert kinds(tmp_path, stages) == ["done"] * 3
    assert not list(tmp_path.rglob("finished"))
    _, said = run(tmp_path, stages)
    assert said == ["one: done already", "alone: done already", "two/deep: done already"]


def test_stages_of_one_process_are_kept_though_a_later_one_fails(tmp_path):
    """The rest is done by the next run, of the stages that are left."""
    shared = {"process": "x"}
    stages = [Stage("one", "toy_stages:process", resources=shared), Stage("two", "toy_stages:wrong", resources=shared)]
    stages.append(Stage("three", "toy_stages:process", resources=shared))
    with pytest.raises(AlignError, match="two failed: see above"):
        run(tmp_path, stages)
    assert kinds(tmp_path, stages) == ["done", "resume", "resume"]
    mended = [stages[0], Stage("two", "toy_stages:process", resources=shared), stages[2]]
    before = (tmp_path / "one" / "process.json").read_text()
    run(tmp_path, mended)
    assert kinds(tmp_path, mended) == ["done"] * 3
    assert (tmp_path / "one" / "process.json").read_text() == before
    assert (tmp_path / "two" / "process.json").read_text() == (tmp_path / "three" / "process.json").read_text()


@pytest.mark.slow
def test_stages_of_one_process_that_dies_are_told_apart(tmp_path):
    shared = {"process": "x"}
    stages = [Stage("one", "toy_stages:process", resources=shared), Stage("two", "toy_stages:die", resources=shared)]
    with pytest.raises(AlignError, match="two: its process was ended by signal 9"):
        run(tmp_path, stages)
    assert kinds(tmp_path, stages) == ["done", "resume"]


@pytest.mark.slow
def test_shards_share_the_work_and_any_number_may_finish_it(tmp_path):
    run(tmp_path / "alone", plan())
    run(tmp_path / "three", plan(processes=3))
    for index in (0, 3):
        finished, _ = run(tmp_path / "array", plan(), shard=Shard(index, 4))
        assert not finished
    run(tmp_path / "array", plan(processes=2))
    for folder in ("three", "array"):
        assert result(tmp_path / folder) == 285
        from align.runs import read_journal

        assert read_journal(tmp_path / folder / "one" / "units") == read_journal(tmp_path / "alone" / "one" / "units")


def test_a_stage_that_cannot_be_shared_out_refuses_a_shard(tmp_path):
    run(tmp_path, plan()[:1])
    with pytest.raises(AlignError, match="--shard 0/2: the next stage, two/deep, is not shared out"):
        run(tmp_path, plan(), shard=Shard(0, 2))


@pytest.mark.slow
def test_two_runs_in_one_folder_are_refused(tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path, plan(pause=0.4)))
    thread.start()
    time.sleep(1.0)
    with pytest.raises(AlignError, match="another run works in this folder"):
        run(tmp_path, plan(pause=0.4))
    thread.join()
    assert result(tmp_path) == 285


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong", "stage failed: see above"),
        ("crash", "stage failed: see above"),
        ("die", "was ended by signal 9: see .*log.txt"),
    ],
)
def test_a_failing_stage_is_one_sentence(tmp_path, function, message, capfd):
    with pytest.raises(AlignError, match=message):
        run(tmp_path, [Stage("stage", f"toy_stages:{function}")])
    assert not (tmp_path / "stage" / "manifest.json").exists()
    if function == "wrong":
        assert "align: stage: the moon is not made of cheese" in capfd.readouterr().err
    if function == "crash":
        assert "RuntimeError: a bug" in (tmp_path / "stage" / "log.txt").read_text()
        said = capfd.readouterr().err
        assert re.search(r"align: stage: .*toy_stages.py line \d+: RuntimeError: a bug", said)
        assert "Traceback" not in said


@pytest.mark.slow
def test_stopping_ends_the_stage_within_seconds(tmp_path):
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(InterruptedRunError, match="interrupted in stage: run the same command to go on"):
        run(tmp_path, [Stage("stage", "toy_stages:forever")], stop=stop)
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{(tmp_path / 'stage' / 'begun.txt').read_text()}").exists()


@pytest.mark.slow
def test_the_stop_file_ends_a_stage_at_once_unless_it_looks_for_it_itself(tmp_path, monkeypatch):
    """A stage that saves when asked is waited for; no stage after it is begun."""
    file = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE, str(file))
    threading.Timer(1.5, file.touch).start()
    began = time.monotonic()
    with pytest.raises(InterruptedRunError, match="interrupted in stage: run the same command to go on"):
        run(tmp_path / "ended", [Stage("stage", "toy_stages:forever")])
    assert time.monotonic() - began < 10
    file.unlink()
    one, *others = plan(count=6, pause=1.0)
    saves = replace(one, resources={"processes": 1, "saves_when_asked": True})
    threading.Timer(1.0, file.touch).start()
    with pytest.raises(InterruptedRunError, match="interrupted in two/deep"):
        run(tmp_path / "waited", [saves, *others])
    assert (tmp_path / "waited/one/manifest.json").exists()
    assert not (tmp_path / "waited/two").exists()
    file.unlink()
    run(tmp_path / "waited", [saves, *others])
    assert result(tmp_path / "waited") == 55


DRIVER = """
import sys
sys.path.insert(0, {here!r})
from toy_stages import plan
from align.runs import RunFolder, execute
execute(plan(count=40, pause=0.02), RunFolder({folder!r}))
"""


def driver(folder):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(here=str(HERE), folder=str(folder))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_killed_at_twenty_random_points_it_ends_with_the_same_bytes(tmp_path):
    """SIGKILL to the driver, to the stage's process, or to both, at any moment."""
    run(tmp_path / "whole", plan(count=40))
    rng = random.Random(1)
    folders, kills = [tmp_path / "killed-0"], 0
    while kills < 20 or folders[-1].exists():
        process = driver(folders[-1])
        if kills < 20:
            time.sleep(rng.uniform(0.2, 1.2))
            kills += process.poll() is None
            victims = rng.choice([[process.pid], stage_processes(tmp_path), [process.pid, *stage_processes(tmp_path)]])
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        if process.wait() == 0:
            for name in ("one/units/part-00000-of-00001.jsonl", "two/deep/total.json", "three/copy.json"):
                assert (folders[-1] / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
            folders.append(tmp_path / f"killed-{len(folders)}")
    assert len(folders) > 1
    assert not stage_processes(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["forever", "stubborn"])
def test_a_stage_and_its_children_end_with_their_driver(tmp_path, function):
    """A driver that was killed leaves nothing behind that would go on writing, or keep a GPU."""
    code = f"from align.runs import *; execute([Stage('stage', 'toy_stages:{function}')], RunFolder({str(tmp_path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "stage" / "begun.txt").exists() or not (tmp_path / "stage" / "begun.txt").read_text():
        time.sleep(0.05)
    stage = int((tmp_path / "stage" / "begun.txt").read_text())
    process.kill()
    process.wait()
    for _ in range(300):
        if not Path(f"/proc/{stage}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{stage}").exists()
    with RunFolder(tmp_path).locked():  # the folder is free again
        pass


@pytest.mark.slow
def test_stages_that_work_on_records_alone_start_without_what_models_need():
    """torch and transformers take eight seconds of a start, which a stage that reads and writes JSON has no use for."""
    modules = ("implicit_rewards.filtering", "implicit_rewards.pairing", "thought_trees.stages", "rollouts.stages", "code_execution.stages")
    code = "import sys\n" + "".join(f"import data_pipelines.{name}\n" for name in modules)
    code += (
        "import eval.chain_of_thought, eval.code\nprint([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
