"""A real Slurm on this machine: munge, a controller and two nodes, in a folder of their own and on ports of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NODES = ("first", "second")
CONFIG = """
ClusterName=align
SlurmctldHost=localhost
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=10
MessageTimeout=60
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=first NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=8000
NodeName=second NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=8000
PartitionName=main Nodes=first,second Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here."""
    programs = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
    if programs:
        return f"Slurm is not installed ({', '.join(programs)} missing)"
    return None if os.getuid() == 0 else "Slurm's daemons are started as root"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; gives the environment that Slurm's commands need, and ends all it has started."""
    (folder / "state").mkdir()
    port = 21000 + os.getpid() % 9000
    text = CONFIG.format(folder=folder, port=port, first=port + 1, second=port + 2)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    paths = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        subprocess.run(["munged", "--force", f"--socket={folder}/munge.socket", *paths], check=True, capture_output=True)
        subprocess.run(["slurmctld"], env=environment, check=True, capture_output=True)
        for node in NODES:
            subprocess.run(["slurmd", "-N", node], env=environment, check=True, capture_output=True)
        _until(lambda: _idle(environment) == len(NODES), 60, "the nodes")
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        with contextlib.suppress(AssertionError):  # whose steps would outlive the daemons
            _until(lambda: not _queue(environment), 60, "the end of all jobs")
        for name in ("slurmctld.pid", *(f"slurmd-{node}.pid" for node in NODES), "munge.pid"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int((folder / name).read_text()), signal.SIGTERM)


def _idle(environment: dict[str, str]) -> int:
    listed = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%T"], env=environment, capture_output=True, text=True, check=False)
    return listed.stdout.split().count("idle")


def _queue(environment: dict[str, str]) -> str:
    return subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, check=False).stdout.strip()


def state(job: str, environment: dict[str, str]) -> str:
    """A job's state in Slurm's words, such as RUNNING or COMPLETED."""
    shown = subprocess.run(["scontrol", "show", "job", job], env=environment, capture_output=True, text=True, check=True).stdout
    return shown.partition("JobState=")[2].split()[0]


def wait(job: str, environment: dict[str, str], seconds: float = 300) -> str:
    """The state a job ends in."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    _until(lambda: state(job, environment) in over, seconds, f"job {job}")
    return state(job, environment)


def _until(reached: object, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what}: not ready after {seconds} s"
        time.sleep(0.1)
