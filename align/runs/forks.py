"""Stages that begin as forks of a process which has imported what they need: the driver's side of `fork_server`.

Importing torch, transformers and trl takes 10 to 20 s of CPU, and a run has up to a dozen stages. multiprocessing's fork server would
give them neither an environment nor descriptors of their own, nor import what the next stage needs only when it is due.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from align.runs import launch
from align.runs.stage import Stage

SERVER = "align.runs.fork_server"
LOADS_MODELS = "align.models"  # and with it torch and transformers
LARGEST = 1 << 16  # bytes of a message


class Process(Protocol):
    """As much of `subprocess.Popen` as a driver uses."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit status, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended; raises `subprocess.TimeoutExpired`."""


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether stages may begin as forks here: on Linux, and where no GPU is visible, because CUDA does not survive a fork."""
    return sys.platform.startswith("linux") and not launch.visible_gpus(environment)


class ForkServer:
    """Begins stages, each in a fork of one process. That is started by the first of them, and ends with the context or the driver."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._stopped = False
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._socket is not None and self._process is not None:
            self._socket.close()
            if self._stopped:  # it may be in the midst of imports
                self._process.kill()
            self._process.wait()
        self._socket = self._process = None

    def start(
        self, stages: Sequence[Stage], arguments: Sequence[str], environment: Mapping[str, str], lock: int, stop: threading.Event,
        errors: int,
    ) -> Process | None:  # fmt: skip
        """Begin a process of stages.

        Args:
            stages: those that run in it, one after the other.
            arguments: of `worker.main`.
            environment: all of its variables.
            lock: descriptor that it holds as long as it lives.
            stop: set while the imports go on, it ends them.
            errors: descriptor that becomes its standard error, and that of the imports for it.

        Returns:
            None if it could not be: it is to be started as an interpreter of its own, or not at all if `stop` is set.
        """
        modules = [stage.function.partition(":")[0] for stage in stages]
        if any("model" in stage.inputs for stage in stages):
            modules.append(LOADS_MODELS)
        with self._one_at_a_time, contextlib.suppress(OSError):  # where it has ended, stages begin without it
            if not self._import(modules, environment, stop, errors):
                return None
            return self._fork(arguments, environment, lock, errors)
        return None

    def _import(self, modules: list[str], environment: Mapping[str, str], stop: threading.Event, errors: int) -> bool:
        """Have the process import modules; whether it can be forked then."""
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours.dup() as kept, theirs:
                command = [sys.executable, "-m", SERVER, str(theirs.fileno())]
                self._process = subprocess.Popen(
                    command, env=dict(environment), pass_fds=[theirs.fileno()], start_new_session=True, stderr=errors
                )
                self._socket, self._environment = kept.dup(), dict(environment)
            ours.close()
        if self._stopped:
            return False
        socket.send_fds(self._socket, [json.dumps({"modules": modules}).encode()], [errors])
        while not select.select([self._socket], [], [], 0.05)[0]:
            if stop.is_set():  # the server goes on for the stages of other runs; its answer is never read, so it gets no further order
                self._stopped = True
                return False
        return bool(json.loads(self._socket.recv(LARGEST) or b"false"))

    def _fork(self, arguments: Sequence[str], environment: Mapping[str, str], lock: int, errors: int) -> Process | None:
        assert self._socket is not None
        changed = {name: value for name, value in environment.items() if self._environment.get(name) != value}
        removed = [name for name in self._environment if name not in environment]
        order: dict[str, Any] = {"arguments": list(arguments), "changed": changed, "removed": removed}
        report, written = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [lock, written, errors])
            pid = json.loads(self._socket.recv(LARGEST) or b"null")
            if pid is None:
                raise ConnectionResetError
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(written)
        return _Fork(pid, report)


class _Fork:
    """A process whose parent is the server, which tells through a pipe how it ended."""

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._report = report

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            told = os.read(self._report, LARGEST)
            os.close(self._report)
            self.returncode = int(told) if told else -signal.SIGKILL  # nothing is told where the server was killed, and its forks with it
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise subprocess.TimeoutExpired("a stage", timeout)
            select.select([self._report], [], [], left)
        return status
