"""How a process inside begins: it confines itself, says how far that went, and then serves as tester or as the candidates' server."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

from . import confinement, filters, landlock, lifelines, namespaces, supervisor, tester, wire
from .filters import Filter

_KEPT = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # numpy's libraries start a thread per core otherwise


def main() -> None:
    """Begin. The command line carries the configuration that `../isolation.py` wrote; sockets are open descriptors."""
    config = json.loads(sys.argv[1])
    _live_with(config["pool"], config)
    os.chdir(config["scratch"])
    os.sched_setaffinity(0, {config["core"]})
    sys.path += config["packages"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the host decides when to end
    applied = _landlock(config)
    config["keeps_files"] = config["landlock"] != "required" or applied >= landlock.TRUNCATES
    confinement.give_up_privileges()
    if config["role"] == "candidate" and config["landlock"] == "off" and not config["own_user"]:
        _make_nothing_that_stays(config["scratch"])
    if config["processes"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (config["processes"],) * 2)
    for name in os.environ.keys() - _KEPT:
        del os.environ[name]
    os.environ["HOME"] = config["scratch"]  # whoever asks for it would otherwise ask the system's user database
    sys.argv[1:] = []
    report = {"landlock": applied, "pid": os.getpid(), "python": sys.version.split()[0]}
    (_test if config["role"] == "tester" else _serve)(config, report)


def _live_with(pool: int, config: dict[str, Any]) -> None:
    """Tie this process to the pool's, and enter the namespaces that the configuration wants."""
    if config["lifeline"] == "keeper":
        lifelines.keep(pool, confinement.hide)
    elif config["lifeline"] == "kernel":
        lifelines.die_with(pool)
    if config["unshare"]:
        namespaces.enter(config["readable"], config["scratch"], config["bytes"], (config["program"], config["seen"]))


def _landlock(config: dict[str, Any]) -> int:
    """Apply Landlock as far as the configuration wants it; returns its version."""
    if config["landlock"] == "off":
        return 0
    try:
        devices = [path for path in config["readable"] if path.startswith("/dev/")]
        return landlock.restrict(config["readable"], [config["scratch"], *devices], config["newest_landlock"])
    except OSError:
        if config["landlock"] == "required":
            raise
        return 0


def _make_nothing_that_stays(scratch: str) -> None:
    """Forbid what nobody could remove after a program, as it does not say which of a user's processes has made it; where the kernel can."""
    for forbid in (filters.make_no_objects, functools.partial(landlock.make_no_file_below, "/dev", scratch)):
        with contextlib.suppress(OSError):
            forbid()


def _serve(config: dict[str, Any], report: dict[str, Any]) -> None:
    supervisor.serve(socket.socket(fileno=config["control"]), config, report)


def _test(config: dict[str, Any], report: dict[str, Any]) -> None:
    host, control = socket.socket(fileno=config["host"]), socket.socket(fileno=config["control"])
    confinement.limit(**config["limits"])
    confinement.hide()  # it holds tests, and programs of the past
    if config["filter"]:
        os.close(Filter(config["keeps_files"]).install())  # nobody listens: calls that would end a program fail here
    wire.send(host, {"tester": report, "server": wire.receive(control)})
    tester.serve(host, control, config["imports"])
