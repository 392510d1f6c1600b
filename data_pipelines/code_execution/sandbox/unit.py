"""A tester and a candidates' server, each confined, joined by a socket: what judges one program at a time."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from data_pipelines.code_execution.sandbox import accounts
from data_pipelines.code_execution.sandbox.accounts import Account
from data_pipelines.code_execution.sandbox.inside import wire
from data_pipelines.code_execution.sandbox.inside.leftovers import empty
from data_pipelines.code_execution.sandbox.inside.orders import wall_seconds
from data_pipelines.code_execution.sandbox.isolation import CODE, Isolation, Role, environment
from data_pipelines.code_execution.sandbox.results import Limits
from data_pipelines.code_execution.sandbox.tests import Assertions

START_SECONDS = 60.0
GRACE = 10.0  # seconds beyond a program's own limits before the host ends the unit
_FOLDER = "align-sandbox-unit-"
_YOUNG = 60.0  # seconds within which a folder may be one that is being made
_KNOWN_GOOD = """
import threading
def f(x):
    with open("known-good", "w") as file:
        file.write("x" * 4096)
    squares = []
    thread = threading.Thread(target=lambda: squares.append(x * x))
    thread.start()
    thread.join()
    return squares[0] + len(bytes(1 << 24)) - (1 << 24)
"""
_ITS_LIMITS = (*vars(Limits()).values(), 2 * Limits().seconds)
_ITS_TESTS = Assertions("assert f(3) == 9", "f").as_message()
_ITS_SECONDS = 5.0  # until it must have been judged
_STOPPED = 2.0  # seconds without an answer after which a process may have been stopped
_numbers = itertools.count()
_PROFILED = (-signal.SIGPROF, 128 + signal.SIGPROF)


class StartError(RuntimeError):
    """The processes cannot be started; the message says why."""


class BrokenError(RuntimeError):
    """The unit has broken down while it judged a program, and is closed.

    Attributes:
        started: whether the program may have run.
        verdict: what is to be said of a program that does this to any unit.
    """

    def __init__(self, started: bool, kind: str = "crashed", detail: str = "server") -> None:
        super().__init__("the sandbox's unit has broken down")
        self.started = started
        self.verdict = kind, detail


_parent: ThreadPoolExecutor


def _new_parent() -> None:
    """Take a thread of our own as the parent of units: the kernel ends them with the thread that started them, and others end early."""
    global _parent
    _parent = ThreadPoolExecutor(1, thread_name_prefix="sandbox-parent")


_new_parent()
os.register_at_fork(after_in_child=_new_parent)


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
        self._kept = isolation.level == "limits"
        self._folder, self._lock = _make_folder()
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
        scratch = os.path.join(self._folder, role)  # which a program can neither move nor remove
        os.mkdir(scratch)
        account = Account.open(isolation.python, CODE) if accounts.needed(isolation.level) else None
        options: dict[str, Any] = account.options() if account else {}
        if account:
            os.chown(scratch, account.user, account.user)

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
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

        process = _parent.submit(start).result()
        self._processes.append(process)
        if account:
            self._users.append(account.user)
            account.close()

    def judge(self, source: str, tests: dict[str, Any], limits: tuple[Any, ...], runs: int) -> dict[str, Any]:
        """Run a program against tests.

        Args:
            source: the program.
            tests: `Tests.as_message()`.
            limits: in the order of `Order`.
            runs: how often the program is run at most.

        Raises:
            BrokenError: the unit has broken down; start another.
        """
        self.served += 1
        return self._judge((source, tests, limits), runs * wall_seconds(limits[0] + 1.0) + GRACE)

    def is_sound(self) -> bool:
        """Whether a program that is known to be right passes; the unit is closed where it does not."""
        try:
            sound = bool(self._judge((_KNOWN_GOOD, _ITS_TESTS, _ITS_LIMITS), _ITS_SECONDS)["verdict"][0] == "pass")
        except BrokenError:
            return False
        if not sound:
            self.close()
        return sound

    def _judge(self, message: tuple[Any, ...], seconds: float) -> dict[str, Any]:
        """The tester's answer, if it comes within so many seconds."""
        self._host.settimeout(seconds)
        try:
            wire.send(self._host, message)
        except (wire.ClosedError, TimeoutError) as error:
            self.close()
            raise BrokenError(started=False) from error
        try:
            self._await(seconds)
            answer = dict(wire.receive(self._host))
        except TimeoutError as error:
            self.close()
            raise BrokenError(True, "timeout", "in the tests") from error
        except wire.ClosedError as error:
            tester = self._processes[0]
            with contextlib.suppress(subprocess.TimeoutExpired):
                tester.wait(timeout=START_SECONDS)
            self.close()
            if tester.returncode in _PROFILED:  # it has ended itself, because of one long call into C
                return unanswered(("timeout", "in the tests"))
            raise BrokenError(True, "harness_error", "the tester died") from error
        if answer.get("broken"):
            self.close()
            raise BrokenError(answer["started"])
        return answer

    def _await(self, seconds: float) -> None:
        """Wait for the tester's answer. From time to time, wake the processes if something has stopped them.

        Raises:
            TimeoutError: none has come within so many seconds.
            BrokenError: the candidates' server is gone, which the tester has not noticed.
        """
        poll = select.poll()
        poll.register(self._host, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not poll.poll(1000 * min(_STOPPED, seconds)):
            if time.monotonic() > deadline:
                raise TimeoutError
            if self._processes[1].poll() is not None and not poll.poll(1000 * _STOPPED):
                self.close()
                raise BrokenError(started=True)
            for process in self._processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for each in (top := psutil.Process(process.pid), *top.children()):  # not further down: a program may stop itself
                        each.resume()

    @property
    def closed(self) -> bool:
        """Whether another unit is needed."""
        return not self._processes

    def close(self) -> None:
        """End both processes and everything below them; leave no file."""
        self._host.close()
        if self._lock < 0:
            return
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
        for process in self._processes:
            _end(process)
        self._processes = []
        for user in self._users:
            accounts.end_all_of(user)
        if self._kept:
            accounts.end_escaped()
        _remove_folder(self._folder)
        os.close(self._lock)
        self._lock = -1


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it, from the bottom: what is below may need its parent to be told from others."""
    deadline = time.monotonic() + _ITS_SECONDS
    while process.poll() is None and (below := _running_below(process.pid)) and time.monotonic() < deadline:
        for each in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        time.sleep(0.001)
    process.kill()
    process.wait()


def _running_below(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [each for each in psutil.Process(pid).children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
    return []


def _make_folder() -> tuple[str, int]:
    """A folder for a unit's files, and the lock on it: the kernel lets go of it with this process. Removes folders that nobody holds."""
    parent = tempfile.gettempdir()
    for entry in [entry for entry in os.scandir(parent) if entry.name.startswith(_FOLDER)]:
        with contextlib.suppress(OSError):
            about = entry.stat(follow_symlinks=False)
            if about.st_uid == os.geteuid() and time.time() - about.st_mtime > _YOUNG:
                os.close(_locked(entry.path))
                _remove_folder(entry.path)
    folder = tempfile.mkdtemp(prefix=_FOLDER)
    os.chmod(folder, 0o711)
    return folder, _locked(folder)


def _locked(folder: str) -> int:
    """A descriptor that holds the lock on a folder.

    Raises:
        OSError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_folder(folder: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            empty(os.path.join(folder, name))
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)


def unanswered(verdict: tuple[str, str]) -> dict[str, Any]:
    """An answer in the place of one that never came."""
    return {"verdict": verdict, "tests": [], "count": 0, "output": b"", "errors": b"", "seconds": 0.0, "cpu": 0.0, "idle": True}
