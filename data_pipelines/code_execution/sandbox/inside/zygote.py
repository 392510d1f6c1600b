"""The zygote: a warm interpreter that forks one process a program and does nothing else, so that a fork has little to copy."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import socket
import struct
from typing import Any

from . import lifelines, program, surroundings, wire
from .filters import Filter

STATUS = struct.Struct("=qd")  # as waitpid gives it, and the seconds of CPU time that the program took

STANDARD = (
    "bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "json", "math", "operator", "random", "re",
    "string", "sys", "typing",
)  # fmt: skip
"""Modules that are there at once; a program imports the others of the standard library as ever. Each one makes every fork dearer."""

_fork = ctypes.PyDLL(None).fork
"""The C library's fork. Python's own runs handlers in the child (of threading, random, logging) that no single-threaded process needs,
and which cost as much as the fork itself; without them all programs begin with the same random state, too."""


def serve(supervisor: socket.socket, pids: int, config: dict[str, Any]) -> None:
    """Start programs, one at a time, until the supervisor is gone.

    Args:
        supervisor: five descriptors in (job, input, output, errors, channel), the program's status and CPU time out.
        pids: where each program's process says its id, once it is prepared and before the first line of the program.
        config: `imports`, modules to have ready; `filter`, whether seccomp is to be used; `keeps_files`, see filters.py; `home`, see
            program.py.
    """
    for name in [*STANDARD, *config["imports"]]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    listeners = [Filter(config["keeps_files"]).install()] if config["filter"] else []
    surroundings.prepare(config["keeps_files"])
    program.rehearse()
    gc.collect()
    gc.freeze()
    socket.send_fds(supervisor, [b"."], listeners)
    for listener in listeners:
        os.close(listener)
    zygote = os.getpid()
    while True:
        try:
            _, descriptors = wire.receive_with_descriptors(supervisor, 5)
        except wire.ClosedError:
            return
        pid = _fork()
        if pid == 0:
            lifelines.die_with(zygote)
            program.become(descriptors, config["home"], pids)
        if pid < 0:  # there are too many processes
            return
        for descriptor in descriptors:
            os.close(descriptor)
        _, status, usage = os.wait4(pid, 0)
        supervisor.send(STATUS.pack(status, usage.ru_utime + usage.ru_stime))
