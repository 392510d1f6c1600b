"""Hostile programs: the verdict that each must get at every level, and nothing left of any of them."""

import contextlib
import fnmatch
import os
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest
from hostile import CANARY, HOSTILE, TESTS, WITH_NUMPY
from hostile_system import OPEN, SYSTEM

from data_pipelines.code_execution.sandbox import Limits

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
LIMITS = Limits(seconds=1.0, memory=512 << 20)
PROGRAMS = [*HOSTILE, *SYSTEM]
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    path = tmp_path_factory.mktemp("canary") / "secret.txt"
    path.write_text(CANARY)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module", autouse=True)
def environment():
    os.environ["ALIGN_CANARY"] = CANARY
    yield
    del os.environ["ALIGN_CANARY"]


def aimed(program, canary) -> str:
    """A program's text with the files of this machine that it is after."""
    return program.source.replace("@home@", str(Path.home())).replace("@canary@", str(canary)).replace(OPEN, str(canary))


def needs_own_user(program) -> bool:
    """Without filters only a user id of its own, which root alone can give, keeps a program's calls from this user's other processes."""
    return program.name in ("kill the siblings", "kill everybody", "kill the parent", "priority of its user")


@pytest.mark.levels_in_turn
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_hostile_program_gets_its_verdict(program, sandbox, mechanism, canary):
    if mechanism == "limits" and os.geteuid() != 0 and needs_own_user(program):
        pytest.skip("limits alone do not keep an ordinary user's processes from each other's signals")
    result = sandbox.run(aimed(program, canary), TESTS, Limits(seconds=program.seconds, memory=LIMITS.memory))
    wanted = program.unfiltered if mechanism == "limits" and program.unfiltered else program.verdict
    assert fnmatch.fnmatchcase(str(result.verdict), wanted)
    assert not result.passed
    assert CANARY not in str(result)
    assert len(str(result.verdict).encode()) < 1000, "it can be written, and read"
    assert sandbox.run("def f(x): return x * x", TESTS).passed  # the next program is judged as ever


@pytest.fixture(scope="module")
def with_numpy(mechanism):
    from data_pipelines.code_execution.sandbox import Sandbox
    from data_pipelines.code_execution.sandbox.isolation import Isolation

    pytest.importorskip("numpy")
    with Sandbox(Isolation(mechanism), workers=1, packages=["numpy"]) as box:
        yield box


@pytest.mark.parametrize("program", WITH_NUMPY, ids=lambda program: program.name)
def test_a_hostile_program_with_numpy_gets_its_verdict(program, with_numpy):
    result = with_numpy.run(program.source, TESTS, Limits(seconds=program.seconds, memory=LIMITS.memory))
    assert fnmatch.fnmatchcase(str(result.verdict), program.verdict)
    assert not result.passed
    assert with_numpy.run("import numpy as np\ndef f(x): return np.int64(x) ** 2", TESTS).passed


def sockets() -> set[str]:
    """Listening and abstract sockets of the machine, but for those of tests beside this one."""
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    tcp = {f"{c.type} {c.laddr}" for c in listening if not _of_another_test(c.pid)}
    unix = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if line.split()[-1].startswith("@align")}
    return tcp | unix


def _of_another_test(pid: int | None) -> bool:
    """Whether a process belongs to tests beside this one: a worker of the same run, or something that a test has started, whose
    environment says so (a sandbox's programs are given an environment of their own)."""
    with contextlib.suppress(psutil.Error):
        if pid is not None:
            family = {pid, *(parent.pid for parent in psutil.Process(pid).parents())}
            return "PYTEST_CURRENT_TEST" in psutil.Process(pid).environ() or (os.getppid() in family and os.getpid() not in family)
    return False


@pytest.fixture
def scratch(monkeypatch):
    """A folder for temporary files that no other worker's sandbox writes to, and that every user reaches."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_nothing_is_left_of_the_hostile_programs(mechanism, reasons, canary, scratch):
    from data_pipelines.code_execution.sandbox import Sandbox
    from data_pipelines.code_execution.sandbox.isolation import Isolation

    places = [*SHARED_FOLDERS, str(Path.home()), os.getcwd(), str(canary.parent)]
    before = {place: set(os.listdir(place)) for place in places}
    before_sockets, children = sockets(), set(psutil.Process().children(recursive=True))
    processes = {process.pid for process in psutil.process_iter()}
    seen = []
    with Sandbox(Isolation(mechanism), workers=2) as box:
        programs = [p for p in PROGRAMS if not (mechanism == "limits" and os.geteuid() != 0 and needs_own_user(p))]
        results = list(box.run_batch(((aimed(program, canary), TESTS) for program in programs), LIMITS))
        users = {process.uids().real for process in set(psutil.Process().children(recursive=True)) - children}
    assert not any(result.passed for result in results)
    assert set(psutil.Process().children(recursive=True)) <= children
    for process in psutil.process_iter():
        ours = process.pid not in processes and process.uids().real in users - {os.getuid()}
        if ours and process.status() != psutil.STATUS_ZOMBIE:  # one that has ended, which the first process has yet to notice
            seen.append(process)
    assert not seen
    others = ("pytest", "tmp", "align-sandbox-")  # the last: ours are in `scratch`
    left = {place: [name for name in set(os.listdir(place)) - before[place] if not name.startswith(others)] for place in places}
    assert not [name for names in left.values() for name in names if "align" in name or "struct" in name]
    assert os.listdir(scratch) == []
    assert sockets() <= before_sockets
    assert CANARY not in str(results)
    assert canary.stat().st_mode & 0o777 == 0o600
