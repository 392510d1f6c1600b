"""`python -m align.runs.fork_server DESCRIPTOR`: imports what a driver names, and forks stages, as `forks` asks over a socket."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from align.imports import without_collection
from align.runs import worker
from align.runs.forks import LARGEST

HARMLESS_THREADS = {"jemalloc_bg_thd"}  # pyarrow's allocator, which begins its thread anew in a fork


def serve(orders: socket.socket) -> list[str] | None:
    """Do what the driver asks.

    Returns:
        None once the driver is gone; in a fork, the arguments of its stage.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # until imports or a stage have a standard error of their own; it was a pipe, for Python asks once whether it is
    os.close(null)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends with the driver, which wants to know how stages end
        signal.signal(number, signal.SIG_IGN)
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([orders.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1 << 12)
            _report_the_dead(reports)
        if orders.fileno() not in ready:
            continue
        message, descriptors, *_ = socket.recv_fds(orders, LARGEST, 3)
        if not message:
            _end(reports)
            return None
        order = json.loads(message)
        if "modules" in order:
            with _errors_to(descriptors[0]):
                _import(order["modules"])
            orders.send(json.dumps(_can_be_forked()).encode())
            continue
        lock, report, errors = descriptors
        pid = _fork()
        if pid == 0:
            _become_a_stage(order, [woken, wake, report, *reports.values()])
            os.set_inheritable(lock, True)
            os.dup2(errors, 2)
            os.close(errors)
            orders.send(json.dumps(os.getpid()).encode())  # now signals reach it, and its group
            orders.close()
            return [*order["arguments"]]
        os.close(lock)
        os.close(errors)
        if pid is None:
            os.close(report)
            orders.send(b"null")
        else:
            reports[pid] = report


@contextlib.contextmanager
def _errors_to(descriptor: int) -> Iterator[None]:
    """Have this process's standard error be a descriptor, which is closed at the end, as long as the context lasts."""
    own = os.dup(2)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(own, 2)
        os.close(own)


def _import(modules: Sequence[str]) -> None:
    with without_collection():
        for module in modules:
            with contextlib.suppress(Exception):  # the stage meets the same error, and tells it
                importlib.import_module(module)
    sys.stdout.flush()  # else every fork would write once more what was printed
    sys.stderr.flush()
    gc.freeze()  # a collection in a fork would write to every page of what is imported, and so copy it


def _fork() -> int | None:
    """As `os.fork`; None where the system has no room for a process."""
    try:
        return os.fork()
    except OSError:
        return None


def _can_be_forked() -> bool:
    """Whether forks of what is imported would work: no thread would be left behind, no accelerator is in use.

    BLAS libraries start threads when they are imported, end them before a fork and start them anew when they are needed: so they are
    looked for after a fork that ends at once.
    """
    pid = _fork()
    if pid == 0:
        os._exit(0)
    if pid is None:
        return False
    os.waitpid(pid, 0)
    return not (_other_threads() or _has_accelerator())


def _become_a_stage(order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Leave the server's session, signals, descriptors and environment behind."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in descriptors:
        os.close(descriptor)
    for name in order["removed"]:
        os.environ.pop(name, None)
    os.environ.update(order["changed"])


def _end(pids: Collection[int]) -> None:
    """SIGTERM to stages whose driver was killed, and wait for them; the watchdog ends those that do not listen."""
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        os.waitpid(pid, 0)


def _report_the_dead(reports: dict[int, int]) -> None:
    for pid in list(reports):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):
                os.write(reports[pid], b"%d" % os.waitstatus_to_exitcode(status))
            os.close(reports.pop(pid))


def _other_threads() -> list[str]:
    """Threads beside the main one: a fork would leave them behind, perhaps with a lock that they hold."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if task.name != str(os.getpid()) and (name := (task / "comm").read_text().strip()) not in HARMLESS_THREADS:
                found.append(name)
    return found


def _has_accelerator() -> bool:
    """Whether what is imported has a device beside the CPU, such as a GPU of another maker than NVIDIA: none survives a fork."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.accelerator.is_available())


def _leave(status: int) -> NoReturn:
    """End as an interpreter does, except that modules are not taken apart: that would copy all of the server's memory first."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main(descriptor: str) -> None:
    """The server, and each of its forks."""
    status = 0
    try:
        arguments = serve(socket.socket(fileno=int(descriptor)))
        if arguments is not None:
            status = worker.main(*arguments)
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        status = exit.code if isinstance(exit.code, int) else int(bool(exit.code))
    except BaseException:
        traceback.print_exc()
        status = 1
    _leave(status)


if __name__ == "__main__":
    main(sys.argv[1])
