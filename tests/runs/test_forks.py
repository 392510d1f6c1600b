"""Stages as forks of one process: what they share, what is their own, and what happens where there can be none."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from align.errors import AlignError, InterruptedRunError
from align.runs import Output, RunFolder, Stage, execute, forks

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _toys_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def run(folder, *stages, **options):
    return execute(stages, RunFolder(folder), say=lambda line: None, **options)


def about(folder, stage="one"):
    return json.loads((folder / stage / "about.json").read_text())


def stages(*names, function="forked_stages:about"):
    """Stages in a chain."""
    before = {name: {"before": Output(names[number - 1], "about.json")} if number else {} for number, name in enumerate(names)}
    return [Stage(name, function, inputs=before[name]) for name in names]


def test_stages_share_imports_and_parent_and_nothing_else(tmp_path, monkeypatch):
    counted = tmp_path / "imports.txt"
    monkeypatch.setenv("COUNT_IMPORTS", str(counted))
    run(tmp_path / "run", *stages("one", "two", "three"))
    told = [about(tmp_path / "run", name) for name in ("one", "two", "three")]
    assert counted.read_text() == "imported\n"
    assert len({one["pid"] for one in told}) == 3
    (parent,) = {one["parent"] for one in told}
    assert parent != os.getpid()
    assert not psutil.pid_exists(parent), "the server outlived its run"
    for one in told:
        assert one["session"] == one["pid"]
        assert signal.SIGHUP not in one["ignored"]
        assert len(one["open"]) == len(told[0]["open"])
        assert sum(name.endswith("/lock") for name in one["open"]) == 1


def test_a_stage_has_the_environment_that_its_own_interpreter_would_have(tmp_path, monkeypatch):
    monkeypatch.setenv("FORKS_A", "1")
    monkeypatch.setenv("FORKS_B", "1")
    with forks.ForkServer() as shared:
        run(tmp_path / "first", *stages("one"), forks=shared, environment={"FORKS_B": "2"})
        monkeypatch.delenv("FORKS_A")
        run(tmp_path / "second", *stages("one"), forks=shared, environment={"FORKS_C": "3"})
    assert about(tmp_path / "first")["variables"] == {"FORKS_A": "1", "FORKS_B": "2"}
    assert about(tmp_path / "second")["variables"] == {"FORKS_B": "1", "FORKS_C": "3"}


def test_it_ends_as_an_interpreter_ends(tmp_path):
    run(tmp_path, Stage("one", "forked_stages:untidy"))
    assert (tmp_path / "one/thread").exists()
    assert (tmp_path / "one/exit").exists()


def test_libraries_of_numerics_do_not_keep_stages_from_being_forked(tmp_path, monkeypatch):
    """Their threads, as many as there are CPUs, end before a fork and begin anew in it."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    run(tmp_path, *stages("one", "two", function="computes:about"))
    assert about(tmp_path, "one")["parent"] == about(tmp_path, "two")["parent"] != os.getpid()
    assert about(tmp_path, "two")["product"] == 512.0 * 512 * 512


def test_what_an_import_prints_is_printed_once(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    run(tmp_path, *stages("one", "two", "three", function="computes:about"))
    assert capfd.readouterr().out.count("computes is imported") == 1


def test_a_stop_in_one_runs_imports_leaves_the_stages_of_others_their_time(tmp_path):
    stop = threading.Event()
    with forks.ForkServer() as shared:

        def interrupted():
            with pytest.raises(InterruptedRunError):
                run(tmp_path / "a", SLOW_TO_END, forks=shared, stop=stop)

        other = threading.Thread(target=interrupted)
        other.start()
        while not (tmp_path / "a/one/begun").exists():
            time.sleep(0.05)
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(InterruptedRunError):
            run(tmp_path / "b", Stage("one", "slow_to_import:nothing"), forks=shared, stop=stop)
        other.join()
    assert (tmp_path / "a/one/ended in order").exists()


SLOW_TO_END = Stage("one", "forked_stages:slow_to_end")


@pytest.mark.parametrize(("status", "said"), [(3, "ended with status 3"), (-9, "ended by signal 9"), (-11, "ended by signal 11")])
def test_how_it_ended_is_told(tmp_path, status, said):
    with pytest.raises(AlignError, match=said):
        run(tmp_path, Stage("one", "forked_stages:status", {"status": status}))


def test_a_stop_ends_imports_that_go_on(tmp_path):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(InterruptedRunError):
        run(tmp_path, Stage("one", "slow_to_import:nothing"), stop=stop)
    assert time.monotonic() - began < 10
    with RunFolder(tmp_path).locked(patience=0.0):
        pass


@pytest.mark.parametrize("why", ["a thread", "a GPU", "another accelerator", "no server"])
def test_where_nothing_can_be_forked_stages_are_interpreters(tmp_path, monkeypatch, why):
    if why == "a GPU":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    if why == "no server":
        monkeypatch.setattr(forks, "SERVER", "align.runs.no_such_module")
    function = {"a thread": "starts_a_thread:about", "another accelerator": "has_an_accelerator:about"}.get(why, "forked_stages:about")
    run(tmp_path, *stages("one", function=function))
    assert about(tmp_path)["parent"] == os.getpid()


def test_a_server_that_is_killed_ends_its_stages_and_the_next_begin_without_it(tmp_path):
    with forks.ForkServer() as shared:

        def kill():
            while not (tmp_path / "one/begun.txt").exists():
                time.sleep(0.05)
            shared._process.kill()

        threading.Thread(target=kill).start()
        with pytest.raises(AlignError, match="signal 9"):
            run(tmp_path, Stage("one", "toy_stages:forever"), forks=shared)
        stage = int((tmp_path / "one/begun.txt").read_text())
        with contextlib.suppress(psutil.NoSuchProcess):
            assert psutil.Process(stage).status() == psutil.STATUS_ZOMBIE
        run(tmp_path / "next", *stages("one"), forks=shared)
    assert about(tmp_path / "next")["parent"] == os.getpid()
