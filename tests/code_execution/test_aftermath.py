"""What a program does to the processes and the files around it is not there for the next one, and not on the machine afterwards."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hostile import TESTS
from hostile_system import EMPTIES, LEAVES, OPEN, POISONS
from test_hostile import needs_own_user
from test_lifelines import processes_of

from data_pipelines.code_execution.sandbox import Assertions, Limits, Sandbox
from data_pipelines.code_execution.sandbox.inside import landlock
from data_pipelines.code_execution.sandbox.isolation import Isolation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
SQUARE = "def f(x): return x * x"
SURVEY = """
import os, resource, threading
def f():
    limits = {n: resource.getrlimit(v) for n, v in vars(resource).items() if n.startswith("RLIMIT_") and n != "RLIMIT_NPROC"}
    own = [os.getpriority(os.PRIO_PROCESS, 0), len(os.sched_getaffinity(0)), os.sched_getscheduler(0), os.umask(0), os.listdir(".")]
    return [sorted(limits.items()), own, len(bytearray(1 << 20)), open("x", "w").write("y" * 100)]
print(f())
"""
ONE = Assertions("assert f()", "f")
libc = ctypes.CDLL(None)


def programs_for(mechanism, programs):
    return [p for p in programs if not (mechanism == "limits" and os.geteuid() != 0 and needs_own_user(p))]


def test_whatever_a_program_does_the_next_one_finds_what_it_would_have_found(sandbox, mechanism):
    before = sandbox.run(SURVEY, ONE)
    assert before.passed
    changed = []
    for program in programs_for(mechanism, POISONS):
        sandbox.run(program.source, TESTS, Limits(program.seconds))
        after = sandbox.run(SURVEY, ONE)
        if (str(after.verdict), after.output) != ("pass", before.output):
            changed.append((program.name, str(after.verdict), after.output))
    assert changed == []


def objects() -> list[str]:
    """Objects of System V: kind, number, and the rest of what does not change by itself."""
    rows = [(table, line.split()) for table in ("shm", "sem", "msg") for line in Path("/proc/sysvipc", table).read_text().splitlines()[1:]]
    return sorted(f"{table} {row[1]} {row[2]}" for table, row in rows)


def test_objects_and_daemons_of_a_program_end_with_it_and_those_of_others_stay(sandbox, mechanism):
    mine = libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)
    assert min(mine) >= 0
    others = {process.pid for process in psutil.process_iter()}
    asleep = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path("/dev/shm/align-of-another").write_text("x")
    sandbox.run(SQUARE, TESTS)
    users = {process.uids().real for process in processes_of(sandbox)}
    before = objects()
    try:
        for program in programs_for(mechanism, LEAVES):
            result = sandbox.run(program.source, TESTS, Limits(3.0))
            assert not result.passed
            assert objects() == before, program.name
            assert not Path("/dev/shm/align-was-here").exists(), program.name
            units = {process.pid for process in processes_of(sandbox)}
            new = [process for process in psutil.process_iter() if process.pid not in others | units | {asleep.pid}]
            left = [p for p in new if p.is_running() and p.uids().real in users - {os.getuid()} and p.status() != psutil.STATUS_ZOMBIE]
            assert left == [], program.name
        assert asleep.poll() is None
        assert Path("/dev/shm/align-of-another").exists()
    finally:
        asleep.kill()
        asleep.wait()
        Path("/dev/shm/align-of-another").unlink()
        libc.shmctl(mine[0], 0, None), libc.semctl(mine[1], 0, 0), libc.msgctl(mine[2], 0, None)


@pytest.fixture
def opened():
    """A file that everybody may write to, in a folder that everybody reaches."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "precious.py")
        path.write_text("precious")
        path.chmod(0o666)
        yield path


@pytest.mark.parametrize("version", [1, 2, 3, landlock.NEWEST])
def test_no_program_empties_a_file_of_the_host_whatever_landlock_can(version, opened, reasons):
    if reasons["filters"] or landlock.version() < version:
        pytest.skip(reasons["filters"] or f"Landlock {version} is not there")
    isolation = replace(Isolation("filters", packages=(str(opened.parent),)), newest_landlock=version)
    with Sandbox(isolation, workers=1) as box:
        for program in EMPTIES:
            result = box.run(program.source.replace(OPEN, str(opened)), TESTS)
            assert not result.passed
            assert opened.read_text() == "precious", program.name
        own = """
import os
def f(x):
    open("own", "w").write("12345")
    os.truncate("own", 3)
    with open("own", "r+") as file: file.truncate(2)
    size = os.path.getsize("own")
    open("own", "w").close()
    return x * x + size - 2 + os.path.getsize("own")
"""
        assert box.run(own, TESTS).passed, "a program may empty its own"


def test_without_the_filter_an_older_landlock_lets_files_be_emptied(opened, reasons, monkeypatch):
    """What the test above would find: the same, with the filter told that Landlock sees to it."""
    if reasons["filters"]:
        pytest.skip(reasons["filters"])
    code = f"""
import os
from data_pipelines.code_execution.sandbox.inside import landlock
landlock.restrict(["/usr", "{opened.parent}"], [], 2)
os.close(os.open("{opened}", os.O_RDONLY | os.O_TRUNC))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, opened.read_text()) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("prlimit"), reason="needs root and prlimit, to change another process's limits")
def test_a_unit_that_fails_a_program_known_to_be_right_is_replaced(mechanism):
    with Sandbox(Isolation(mechanism), workers=1) as box:
        assert box.run(SQUARE, TESTS).passed
        (spoilt,) = box._free[0].queue
        zygote = processes_of(box)[-1]
        user = zygote.uids().real
        subprocess.run(
            ["prlimit", f"--pid={zygote.pid}", f"--data={1 << 20}:{1 << 20}"], user=user, group=user, extra_groups=[], check=True
        )
        hungry = "def f(x): return x * x + len(bytearray(100 << 20)) - (100 << 20)"
        assert box.run(hungry, TESTS).passed
        (unit,) = box._free[0].queue
        assert unit is not spoilt
        served = unit.served
        assert str(box.run("import os\nos._exit(70)", TESTS).verdict) == "crashed(exit 70)"
        assert (unit.served, box._free[0].queue[0] is unit) == (served + 1, True), "a verdict of the program's own replaces nothing"


def test_a_program_that_breaks_every_unit_is_the_only_one_to_suffer(reasons):
    if reasons["limits"] or os.geteuid() != 0:
        pytest.skip(reasons["limits"] or "limits alone do not keep an ordinary user's processes from each other's signals")
    with Sandbox(Isolation("limits"), workers=2) as box:
        kills = "import os\ndef f(x): os.kill(-1, 9)"
        results = list(box.run_batch([(SQUARE, TESTS), (kills, TESTS)] * 3))
    assert [str(result.verdict) for result in results] == ["pass", "crashed(server)"] * 3
