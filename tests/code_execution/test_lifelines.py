"""Nothing outlives the pool, whichever of its processes is killed or stopped; and a process that is stopped holds up nothing for long."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from data_pipelines.code_execution.sandbox import Assertions, Limits, Sandbox
from data_pipelines.code_execution.sandbox.isolation import Isolation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
ONE = Assertions("assert f(1) == 1", "f")
SQUARE = "def f(x): return x * x"
POOL = """
import sys
from data_pipelines.code_execution.sandbox import Assertions, Limits, Sandbox
from data_pipelines.code_execution.sandbox.isolation import Isolation
with Sandbox(Isolation(sys.argv[1]), workers=1) as box:
    print("ready", flush=True)
    sys.stdin.readline()
    box.run(sys.argv[2], Assertions("assert f(1) == 1", "f"), Limits(seconds=500.0))
"""
SLEEPS = "import time\ndef f(x): time.sleep(1000)"
LEAVES_DAEMONS = """
import os, time
def f(x):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
    time.sleep(1000)
"""
SECONDS = 8.0  # until everything must be gone, on a busy machine; a tenth of it on an idle one


class Pool:
    """A pool in a process of its own, in which a program runs that never ends."""

    def __init__(self, mechanism: str) -> None:
        program, processes = (LEAVES_DAEMONS, 4) if mechanism == "limits" else (SLEEPS, 1)
        command = [sys.executable, "-c", POOL, mechanism, program]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        assert self.process.stdout.readline() == "ready\n"
        before = len(self.below())
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + 60
        while len(self.below()) < before + processes:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.1)
        self.members = self.below()

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def left(self) -> list[psutil.Process]:
        """What still runs of the pool's processes after a while."""
        psutil.wait_procs(self.members, timeout=SECONDS)
        return [member for member in self.members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        for process in [*self.members, psutil.Process(self.process.pid)]:
            if process.is_running():
                process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start(mechanism):
    pools = []

    def pool() -> Pool:
        pools.append(Pool(mechanism))
        return pools[-1]

    yield pool
    for each in pools:
        each.close()


def test_nothing_is_left_of_a_pool_that_is_killed(start):
    pool = start()
    assert len(pool.members) >= 4
    pool.process.kill()
    assert pool.left() == []


def test_nothing_is_left_of_a_pool_that_is_killed_while_all_its_processes_are_stopped(start):
    pool = start()
    for member in pool.members:
        member.suspend()
    pool.process.send_signal(signal.SIGSTOP)
    pool.process.kill()
    assert pool.left() == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("member", range(10))
def test_nothing_is_left_of_a_pool_that_is_killed_after_one_of_its_processes_was(start, member, number):
    pool = start()
    if member >= len(pool.members):
        pytest.skip("a unit has fewer processes here")
    pool.members[member].send_signal(number)
    time.sleep(0.2)
    pool.process.kill()
    assert pool.left() == []


def processes_of(box: Sandbox) -> list[psutil.Process]:
    """The processes of a box of one worker, but for a program's: from the outermost of the tester to the zygote."""
    (unit,) = box._free[0].queue
    tops = [psutil.Process(process.pid) for process in unit._processes]
    return [process for top in tops for process in (top, *top.children(recursive=True))]


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_a_stall_between_order_and_fork_costs_no_program_its_time(mechanism, seconds):
    with Sandbox(Isolation(mechanism), workers=1) as box:
        zygote = processes_of(box)[-1]
        zygote.suspend()
        stop = threading.Event()
        stalling = threading.Thread(target=keep_stopped, args=(zygote, stop))
        stalling.start()
        threading.Timer(1.5, stop.set).start()
        started = time.monotonic()
        assert box.run(SQUARE, ONE, Limits(seconds=seconds)).passed
        assert time.monotonic() - started < 8
        stalling.join()
        assert box.run(SQUARE, ONE, Limits(seconds=seconds)).passed


def keep_stopped(process: psutil.Process, until: threading.Event) -> None:
    """Stop a process again and again, whoever wakes it."""
    while not until.wait(0.001):
        if process.is_running():
            process.suspend()
    if process.is_running():
        process.resume()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_whichever_process_is_killed_or_stopped_while_nothing_runs_the_next_program_is_judged(mechanism, number):
    children = set(psutil.Process().children(recursive=True))
    with Sandbox(Isolation(mechanism), workers=1) as box:
        count = len(processes_of(box))
        for member in range(count):
            started = time.monotonic()
            while len(found := processes_of(box)) < count:  # those of a unit that has just taken another's place
                assert time.monotonic() - started < 40
                time.sleep(0.01)
            os.kill(found[member].pid, number)
            started = time.monotonic()
            assert box.run(SQUARE, ONE, Limits(seconds=0.2)).passed, member
            assert time.monotonic() - started < 40
    assert set(psutil.Process().children(recursive=True)) <= children


def test_a_pool_in_a_thread_that_ends_keeps_its_units(mechanism):
    with Sandbox(Isolation(mechanism), workers=2) as box:
        verdicts = []
        for _ in range(2):
            thread = threading.Thread(target=lambda: verdicts.extend(box.run_batch([(SQUARE, ONE)] * 4)))
            thread.start()
            thread.join()
            time.sleep(0.05)
        assert all(verdict.passed for verdict in verdicts)
        units = [unit for unit in box._free[0].queue if unit]
        assert sum(unit.served for unit in units) == 8, "no unit was replaced"
