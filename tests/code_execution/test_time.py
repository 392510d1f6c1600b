"""Time limits are of CPU time: a busy machine makes no right program late, and what never ends is ended."""

import subprocess
import sys
import threading
import time

import psutil
import pytest

from align.machine import usable_cpus
from data_pipelines.code_execution.sandbox import Assertions, Limits, Outputs, Sandbox

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
ONE = Assertions("assert f(1) == 1", "f")
COMPUTES = "def f(x):\n  import time\n  end = time.process_time() + {}\n  while time.process_time() < end: sum(range(1000))\n  return x"
LOOPS = "def f(x):\n  while True: pass"
SLEEPS = "import time\ndef f(x): time.sleep(1000)"


def test_no_program_at_60_percent_of_the_limit_is_late_with_twice_as_many_workers_as_cpus():
    with Sandbox(workers=2 * usable_cpus()) as box:
        jobs = ((COMPUTES.format(0.12), ONE) for _ in range(300))
        results = list(box.run_batch(jobs, Limits(seconds=0.2)))
    assert [f"{result.verdict} after {result.seconds:.2f} s" for result in results if not result.passed] == []


@pytest.fixture
def a_busy_machine():
    """Three processes per CPU that compute for as long as the test takes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * usable_cpus())]
    yield
    for process in busy:
        process.kill()
        process.wait()


def test_what_others_compute_on_the_machine_makes_no_program_late(a_busy_machine):
    with Sandbox(workers=usable_cpus()) as box:
        jobs = ((COMPUTES.format(0.3), ONE) for _ in range(12))
        verdicts = {str(result.verdict) for result in box.run_batch(jobs, Limits(seconds=0.5))}
        assert verdicts == {"pass"}
        endless = [str(result.verdict) for result in box.run_batch([(LOOPS, ONE), (SLEEPS, ONE)] * 2, Limits(seconds=0.5))]
    assert endless == ["timeout"] * 4


def test_a_program_that_the_machine_held_up_for_longer_than_it_may_sleep_is_not_taken_for_asleep():
    with Sandbox(workers=1) as box:
        assert box.run("def f(x): return x", ONE).passed
        found = []
        before = {process.pid for process in psutil.Process().children(recursive=True)}
        held_up = threading.Thread(target=lambda: found.extend(_hold_up(2.1, before)))
        held_up.start()
        result = box.run(COMPUTES.format(0.6), ONE, Limits(seconds=1.0))
        held_up.join()
    assert found, "the program's process was not found"
    assert result.passed


def _hold_up(seconds, known):
    """Stop the first new process below this one that computes, as a machine does that stands still, and let it go on after a while."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.pid not in known and sum(process.cpu_times()[:2]) >= 0.02:
                    process.suspend()
                    time.sleep(seconds)
                    process.resume()
                    return [process.pid]
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)
    return []


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("program", [LOOPS, SLEEPS], ids=["loops", "sleeps"])
def test_what_never_ends_is_ended(program, workers):
    with Sandbox(workers=workers) as box:
        started = time.monotonic()
        results = list(box.run_batch([(program, ONE)] * 4, Limits(seconds=0.5)))
        passed = time.monotonic() - started
    assert {str(result.verdict) for result in results} == {"timeout"}
    assert passed < 4 * 10 * 0.5  # on a busy machine; a second or two on an idle one


@pytest.mark.parametrize("workers", [1, 3])
def test_the_limit_of_cpu_time_is_exact(workers):
    with Sandbox(workers=workers) as box:
        verdicts = [str(r.verdict) for r in box.run_batch([(COMPUTES.format(0.6), ONE)] * workers, Limits(seconds=0.5))]
    assert set(verdicts) == {"timeout"}


def test_the_time_of_scripts_is_for_each_input():
    script = "import time\nend = time.process_time() + float(input())\nwhile time.process_time() < end: pass\nprint(1)"
    with Sandbox(workers=2) as box:
        assert box.run(script, Outputs((("0.3", "1"),) * 4), Limits(seconds=0.5)).passed
        late = box.run(script, Outputs((("0.1", "1"), ("0.7", "1"))), Limits(seconds=0.5))
    assert str(late.verdict) == "timeout"


def test_tests_that_take_too_long_are_ended():
    with Sandbox(workers=1) as box:
        slow = Assertions("x = f(1)\nwhile x: pass\nassert x", "f")
        assert str(box.run("def f(x): return x", slow, Limits(seconds=0.5)).verdict).startswith("timeout")
        asleep = Assertions("import time\nx = f(1)\ntime.sleep(100)\nassert x", "f")
        assert box.run("def f(x): return x", asleep, Limits(seconds=0.3)).verdict.kind == "timeout"
        assert box.run("def f(x): return x", ONE).passed
