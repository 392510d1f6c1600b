"""Hostile and honest programs mixed at random: every verdict is the one that the program gets alone, and nothing is left of any."""

import fnmatch
import gc
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from honest import HONEST
from hostile import HOSTILE, TESTS
from hostile_system import SYSTEM
from test_hostile import SHARED_FOLDERS, aimed, needs_own_user

from data_pipelines.code_execution.sandbox import Limits, Sandbox, Tests
from data_pipelines.code_execution.sandbox.isolation import Isolation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
COUNT = int(os.environ.get("ALIGN_MIXED_PROGRAMS", "150"))  # the whole promise: 20000
SEED = int(os.environ.get("ALIGN_MIXED_SEED", "0"))
SECONDS = 1.0  # for programs that never end
SLACK = 30.0  # seconds that a busy machine may take beyond a program's own time
RARELY = 0.3  # how often a program is taken that takes all its time, against others
GROWTH = 32 << 20  # bytes; what the allocator keeps of large tests and outputs


@dataclass(frozen=True, eq=False)
class Job:
    """A program, what it is judged by, and the verdict that it must get; "*" in it stands for anything."""

    name: str
    source: str
    tests: Tests
    verdict: str
    limits: Limits

    @property
    def weight(self) -> float:
        return RARELY if self.verdict[0] in "t*[" and self.limits.seconds == SECONDS else 1.0

    def fits(self, verdict: str) -> bool:
        return fnmatch.fnmatchcase(verdict, self.verdict) and (verdict != "pass" or self.verdict == "pass")


def jobs(mechanism, canary: Path) -> list[Job]:
    """Every program of the sets that can be judged here."""
    hostile = [p for p in [*HOSTILE, *SYSTEM] if not (mechanism == "limits" and os.geteuid() != 0 and needs_own_user(p))]
    unfiltered = mechanism == "limits"
    return [
        *(
            Job(p.name, aimed(p, canary), TESTS, p.unfiltered if unfiltered and p.unfiltered else p.verdict, Limits(p.seconds, 512 << 20))
            for p in hostile
        ),
        *(Job(p.name, p.source, p.tests, p.verdict, Limits()) for p in HONEST if not p.packages),
    ]


def left_by(users: set[int]) -> list[str]:
    """Files in everybody's folders, and objects of System V, of users that sandboxes have had."""
    files = [entry for folder in SHARED_FOLDERS for entry in os.scandir(folder)]
    rows = [line.split() for table in ("shm", "sem", "msg") for line in Path("/proc/sysvipc", table).read_text().splitlines()[1:]]
    return [entry.path for entry in files if entry.stat(follow_symlinks=False).st_uid in users] + [
        " ".join(row) for row in rows if users & {int(word) for word in row if word.isdigit() and int(word) > 1_000_000}
    ]


class Usage:
    """What this process and its units hold: bytes of memory, descriptors."""

    def __init__(self) -> None:
        gc.collect()
        own = psutil.Process()
        self.memory, self.descriptors = own.memory_info().rss, own.num_fds()
        processes = own.children(recursive=True)
        self.largest = max(process.memory_info().rss for process in processes)
        self.most_descriptors = max(process.num_fds() for process in processes) if os.geteuid() == 0 else 0
        self.users = {process.uids().real for process in processes} - {os.getuid()}


@pytest.mark.parametrize("mechanism", ["bubblewrap", "filters", pytest.param("limits", marks=pytest.mark.exhaustive)], indirect=True)
def test_programs_mixed_at_random_get_the_verdicts_that_they_get_alone(mechanism, tmp_path):
    canary = tmp_path / "secret.txt"
    canary.write_text("canary")
    canary.chmod(0o600)
    choices = jobs(mechanism, canary)
    order = random.Random(SEED).choices(choices, [job.weight for job in choices], k=COUNT)
    children, descriptors = set(psutil.Process().children(recursive=True)), psutil.Process().num_fds()
    users: set[int] = set()
    waits: list[tuple[float, str]] = []  # seconds beyond twice the limit

    def judge(job: Job) -> str:
        started = time.monotonic()
        verdict = str(box.run(job.source, job.tests, job.limits).verdict)
        if job.verdict[0] in "t*[":
            waits.append((time.monotonic() - started - 2 * job.limits.seconds, job.name))
        return verdict

    with Sandbox(Isolation(mechanism), workers=1) as box:
        alone = {job: judge(job) for job in dict.fromkeys(order)}
    with Sandbox(Isolation(mechanism), workers=2) as box, ThreadPoolExecutor(2) as threads:
        verdicts = list(threads.map(judge, order[: COUNT // 4]))
        before = Usage()
        verdicts += threads.map(judge, order[COUNT // 4 :])
        after = Usage()
        users |= before.users | after.users
    wrong = [
        (number, job.name, verdict, alone[job], job.verdict)
        for number, (job, verdict) in enumerate(zip(order, verdicts, strict=True))
        if not job.fits(verdict) or not job.fits(alone[job]) or (verdict != alone[job] and job.verdict[-1] not in "*")
    ]
    print(f"{mechanism}: {COUNT} programs; longest waits {sorted(waits)[:-4:-1]}; {vars(before)} then {vars(after)}")
    assert wrong == []
    assert max(waits)[0] < SLACK
    assert after.memory - before.memory < GROWTH
    assert after.largest - before.largest < GROWTH
    assert after.descriptors <= before.descriptors
    assert after.most_descriptors <= before.most_descriptors
    assert set(psutil.Process().children(recursive=True)) <= children
    assert psutil.Process().num_fds() <= descriptors
    assert left_by(users) == []
    assert canary.read_text() == "canary"
