"""What is seen of a run: its stages by number, signs of life, sentences on the terminal, and all other noise in the stages' logs."""

import itertools
import os
import threading
import time
from pathlib import Path

import pytest
from toy_stages import plan

from align.cli import terminal
from align.errors import AlignError
from align.runs import RunFolder, Stage, execute
from align.runs import driver as runs_driver
from align.runs.stage import HowFar
from align.runs.watching import StageErrors, Watcher

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _toys_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


class Kept(Watcher):
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.signs, self.errors = [], []

    def alive(self, stage, far, seconds):
        self.signs.append((stage, far, seconds))

    def error(self, line):
        self.errors.append(line)


@pytest.fixture(params=["forks", "interpreters"])
def way(request, monkeypatch):
    """Both ways in which stages begin."""
    if request.param == "interpreters":
        monkeypatch.setattr(runs_driver, "can_fork", lambda environment: False)


def test_every_stage_is_said_with_its_number(tmp_path):
    said = []
    execute(plan(), RunFolder(tmp_path), say=said.append)
    assert [line for line in said if "done in" not in line] == ["[1/3] one begins", "[2/3] two/deep begins", "[3/3] three begins"]
    said.clear()
    execute(plan(times=2), RunFolder(tmp_path), say=said.append)
    assert [line for line in said if "done" not in line] == ["[2/3] two/deep begins", "[3/3] three begins"]


def test_noise_stands_in_the_log_and_sentences_on_the_terminal(tmp_path, way, capfd):
    watcher = Kept()
    execute([Stage("stage", "toy_stages:noisy")], RunFolder(tmp_path), watcher=watcher)
    log = (tmp_path / "stage" / "log.txt").read_text()
    shown = capfd.readouterr()
    assert watcher.errors == ["note: it is slower so"]
    assert "a user's own print" in shown.out
    assert shown.err == ""
    for words in ("100%|####|", "from a C library: ***", "UserWarning: of a library", "transformers: a library warns"):
        assert words in log
    assert "hf_abc" not in log
    assert "50%" not in log
    assert "\r" not in log


def test_of_shards_each_has_its_log(tmp_path):
    execute([Stage("stage", "toy_stages:noisy", resources={"processes": 2})], RunFolder(tmp_path), watcher=Kept())
    for name in ("log-0-of-2.txt", "log-1-of-2.txt"):
        assert "of a library" in (tmp_path / "stage" / name).read_text()


def test_stages_of_one_process_have_a_log_each(tmp_path):
    shared = {"process": "x"}
    stages = [Stage("one", "toy_stages:noisy", resources=shared), Stage("two", "toy_stages:process", {"pause": 0.5}, resources=shared)]
    said, watcher = [], Kept()
    execute([*stages, Stage("three", "toy_stages:noisy")], RunFolder(tmp_path), say=said.append, watcher=watcher)
    assert [line for line in said if "begins" in line] == ["[1/3] one begins", "[2/3] two begins", "[3/3] three begins"]
    assert "of a library" in (tmp_path / "three" / "log.txt").read_text()


def test_last_words_are_kept(tmp_path, way):
    with pytest.raises(AlignError, match=r"ended by signal 9: see .*log.txt"):
        execute([Stage("stage", "toy_stages:die_talking")], RunFolder(tmp_path), watcher=Kept())
    assert "CUDA error" in (tmp_path / "stage" / "log.txt").read_text()
    with pytest.raises(AlignError, match=r"other failed: see .*other/log.txt; what it finished"):
        execute([Stage("other", "toy_stages:leave")], RunFolder(tmp_path / "b"), watcher=Kept())


def test_everything_is_shown_where_it_is_asked_for(tmp_path):
    watcher = Kept()
    watcher.everything = True
    execute([Stage("stage", "toy_stages:noisy")], RunFolder(tmp_path), watcher=watcher)
    assert any("from a C library: ***" in line for line in watcher.errors)


def test_a_stage_is_heard_of_while_it_runs(tmp_path):
    watcher = Kept()
    execute(plan(count=12, pause=0.6), RunFolder(tmp_path), watcher=watcher)
    ones = [(str(far), seconds) for stage, far, seconds in watcher.signs if stage == "one"]
    assert any(far.endswith(" of 12 prompts") for far, _ in ones)
    assert [seconds for _, seconds in ones] == sorted(seconds for _, seconds in ones)
    assert len([stage for stage, _, _ in watcher.signs if stage == "three"]) >= 1


def test_imports_that_take_long_are_heard_of(tmp_path):
    watcher, stop = Kept(), threading.Event()
    threading.Timer(1.8, stop.set).start()
    with pytest.raises(AlignError):
        execute([Stage("one", "slow_to_import:nothing")], RunFolder(tmp_path), watcher=watcher, stop=stop)
    assert len(watcher.signs) >= 2


def test_off_a_terminal_there_is_a_line_at_least_every_ten_seconds(capsys, monkeypatch):
    lines, now = terminal.Lines(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines.say("[1/3] one begins")
    spoken = [now[0]]
    for tick in range(120):
        now[0] = 1000.0 + tick * 0.5
        lines.alive("one", HowFar(tick, 400, "prompts"), tick * 0.5)
        if capsys.readouterr().out:
            spoken.append(now[0])
    assert max(b - a for a, b in itertools.pairwise(spoken)) <= 10
    assert len(spoken) < 10
    now[0] += 30
    lines.alive("one", HowFar(120, 400, "prompts"), 35.2)
    assert capsys.readouterr().out == "one: 120 of 400 prompts, 35 s\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_says_errors_alone(quiet, capsys):
    lines = terminal.Lines(quiet=quiet)
    lines.say("one begins")
    lines.error("align: wrong")
    assert (capsys.readouterr().out == "") == quiet
    assert lines.log_steps != quiet


def test_a_pipe_that_is_held_open_holds_nothing_up(tmp_path):
    errors = StageErrors(lambda: tmp_path / "log.txt", Kept())
    held = os.dup(errors.descriptor)
    os.write(held, b"half a line")
    began = time.monotonic()
    errors.finish(patience=0.2)
    assert time.monotonic() - began < 2
    os.close(held)
    errors.finish()
    assert (tmp_path / "log.txt").read_text() == "half a line\n"
