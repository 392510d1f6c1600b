"""How a process inside begins: it confines itself, says how far that went, and then serves as tester or as the candidates' server."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from typing import Any

from . import confinement, landlock, namespaces, supervisor, tester, wire
from .filters import Filter

_KEPT = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # numpy's libraries start a thread per core otherwise


def main() -> None:
    """Begin. The command line carries the configuration that `../isolation.py` wrote; sockets are open descriptors."""
    config = json.loads(sys.argv[1])
    if config["unshare"]:
        namespaces.enter(config["readable"], config["scratch"], config["bytes"], (config["program"], config["seen"]))
    os.chdir(config["scratch"])
    os.sched_setaffinity(0, {config["core"]})
    sys.path += config["packages"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the host decides when to end
    applied = _landlock(config)
    confinement.give_up_privileges()
    if config["processes"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (config["processes"],) * 2)
    for name in os.environ.keys() - _KEPT:
        del os.environ[name]
    os.environ["HOME"] = config["scratch"]  # whoever asks for it would otherwise ask the system's user database
    sys.argv[1:] = []
    report = {"landlock": applied, "pid": os.getpid(), "python": sys.version.split()[0]}
    (_test if config["role"] == "tester" else _serve)(config, report)


def _landlock(config: dict[str, Any]) -> int:
    """Apply Landlock as far as the configuration wants it; returns its version."""
    if config["landlock"] == "off":
        return 0
    try:
        devices = [path for path in config["readable"] if path.startswith("/dev/")]
        return landlock.restrict(config["readable"], [config["scratch"], *devices])
    except OSError:
        if config["landlock"] == "required":
            raise
        return 0


def _serve(config: dict[str, Any], report: dict[str, Any]) -> None:
    supervisor.serve(socket.socket(fileno=config["control"]), config, report)


def _test(config: dict[str, Any], report: dict[str, Any]) -> None:
    host, control = socket.socket(fileno=config["host"]), socket.socket(fileno=config["control"])
    confinement.limit(**config["limits"])
    confinement.hide()  # it holds tests, and programs of the past
    if config["filter"]:
        os.close(Filter().install())  # nobody listens: calls that would end a program fail here
    wire.send(host, {"tester": report, "server": wire.receive(control)})
    tester.serve(host, control, config["imports"])
