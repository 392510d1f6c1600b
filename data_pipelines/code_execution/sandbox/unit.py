"""A tester and a candidates' server, each confined, joined by a socket: what judges one program at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from typing import Any

from data_pipelines.code_execution.sandbox import accounts
from data_pipelines.code_execution.sandbox.accounts import Account
from data_pipelines.code_execution.sandbox.inside import wire
from data_pipelines.code_execution.sandbox.inside.orders import wall_seconds
from data_pipelines.code_execution.sandbox.inside.supervisor import empty
from data_pipelines.code_execution.sandbox.isolation import CODE, Isolation, Role, environment

START_SECONDS = 60.0
GRACE = 10.0  # seconds beyond a program's own limits before the host ends the unit
_numbers = itertools.count()
_PROFILED = (-signal.SIGPROF, 128 + signal.SIGPROF)


class StartError(RuntimeError):
    """The processes cannot be started; the message says why."""


class BrokenError(RuntimeError):
    """The server is gone: the unit must be started anew.

    Attributes:
        started: whether the program in hand may have run.
    """

    def __init__(self, started: bool) -> None:
        super().__init__("the sandbox's server is gone")
        self.started = started


class Unit:
    """Two confined processes. Use it from one thread at a time.

    Attributes:
        report: what the processes said about themselves.
        served: programs judged.
    """

    def __init__(self, isolation: Isolation, hash_seed: int = 0) -> None:
        """Start the processes, on one core, and wait until both are ready.

        Raises:
            StartError: this machine does not have what the isolation needs.
        """
        self.served = 0
        self._scratch = [tempfile.mkdtemp(prefix="align-sandbox-") for _ in range(2)]
        self._host, host = socket.socketpair()
        ours, theirs = socket.socketpair()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._users: list[int] = []
        cores = sorted(os.sched_getaffinity(0))
        self._core = cores[(os.getpid() + next(_numbers)) % len(cores)]
        with tempfile.TemporaryFile() as errors:
            try:
                sockets = {"host": host.fileno(), "control": ours.fileno()}
                self._spawn(isolation, "tester", sockets, hash_seed, errors)
                self._spawn(isolation, "candidate", {"control": theirs.fileno()}, hash_seed, errors)
                for sock in (host, ours, theirs):
                    sock.close()
                self._host.settimeout(START_SECONDS)
                self.report = wire.receive(self._host)
            except (OSError, wire.ClosedError, TimeoutError) as error:
                self.close()
                errors.seek(0)
                lines = errors.read().decode("utf-8", "replace").strip().splitlines()
                raise StartError(lines[-1] if lines else str(error)) from error

    def _spawn(self, isolation: Isolation, role: Role, sockets: dict[str, int], hash_seed: int, errors: Any) -> None:
        scratch = self._scratch[len(self._processes)]
        account = Account.open(isolation.python, CODE) if accounts.needed(isolation.level) else None
        options: dict[str, Any] = account.options() if account else {}
        if account:
            os.chown(scratch, account.user, account.user)
        process = subprocess.Popen(
            isolation.command(role, sockets, scratch, account, self._core),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment(hash_seed, account),
            cwd="/",
            pass_fds=[*sockets.values(), *(account.descriptors if account else [])],
            start_new_session=True,
            **options,
        )
        self._processes.append(process)
        if account:
            self._users.append(account.user)
            account.close()

    def judge(self, source: str, tests: dict[str, Any], limits: tuple[Any, ...], runs: int) -> dict[str, Any]:
        """Run a program against tests.

        Args:
            source: the program.
            tests: `Tests.as_message()`.
            limits: in the order of `Limits`.
            runs: how often the program is run at most.

        Raises:
            BrokenError: the candidates' server died; start another unit.
        """
        self._host.settimeout(runs * wall_seconds(limits[0] + 1.0) + GRACE)
        self.served += 1
        try:
            wire.send(self._host, (source, tests, limits))
        except wire.ClosedError as error:
            raise BrokenError(started=False) from error
        try:
            answer = wire.receive(self._host)
        except TimeoutError:
            self.close()
            answer = unanswered(("timeout", "in the tests"))
        except wire.ClosedError:
            self._processes[0].wait(timeout=START_SECONDS)
            stopped = self._processes[0].returncode in _PROFILED
            self.close()
            answer = unanswered(("timeout", "in the tests") if stopped else ("harness_error", "the tester died"))
        if answer.get("broken"):
            raise BrokenError(answer["started"])
        return dict(answer)

    @property
    def closed(self) -> bool:
        """Whether another unit is needed."""
        return not self._processes

    def close(self) -> None:
        """End both processes and everything below them; leave no file."""
        self._host.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []
        for user in self._users:
            accounts.end_processes_of(user)
            accounts.remove_files_of(user)
        for folder in self._scratch:
            with contextlib.suppress(OSError):
                empty(folder)
            with contextlib.suppress(RecursionError):
                shutil.rmtree(folder, ignore_errors=True)


def unanswered(verdict: tuple[str, str]) -> dict[str, Any]:
    """An answer in the place of one that never came."""
    return {"verdict": verdict, "tests": [], "count": 0, "output": b"", "errors": b"", "seconds": 0.0, "cpu": 0.0, "idle": True}
