"""The processes that an engine starts, so that none of them outlives it."""

from __future__ import annotations

import contextlib

import psutil


def family(pid: int | None = None) -> list[psutil.Process]:
    """All processes below one (default: this one)."""
    return list(psutil.Process(pid).children(recursive=True))


def end(processes: list[psutil.Process], patience: float = 10.0) -> None:
    """SIGTERM to each that still runs, SIGKILL after `patience` seconds."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=patience)
