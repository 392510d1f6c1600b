"""The candidates' server: warm, it forks one process a program, watches it, ends it, and leaves nothing of it behind.

It is as untrusted as the programs: it holds no secret and no test, and what it says can only make a program fail.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from . import confinement, program, wire
from .filters import Filter, let_run

_TICK = 0.02  # seconds between two looks at processes and files, where no kernel filter holds them back
_SIZE_TICK = 0.25  # seconds between two looks at how much a program has written


def serve(control: socket.socket, config: dict[str, Any]) -> None:
    """Run programs, one at a time, as they are asked for, until the other side is gone.

    Args:
        control: a job with the channel's descriptor in; how the program ended out. A frame in the meantime ends the program.
        config: `scratch`, the folder that programs may write to; `filter`, whether seccomp is to be used; `home` (see program.py).
    """
    filters = Filter() if config["filter"] else None
    handoff = socket.socketpair()
    confinement.adopt_orphans()
    confinement.hide()
    gc.collect()
    gc.freeze()
    while True:
        try:
            job, descriptors = wire.receive_with_descriptors(control, 1)
        except wire.ClosedError:
            return
        if not descriptors:  # a program is told to end that has ended by itself
            continue
        ended = _run(job, descriptors[0], control, filters, handoff, config)
        try:
            wire.send(control, ended)
        except wire.ClosedError:
            return


def _run(
    job: dict[str, Any],
    channel: int,
    control: socket.socket,
    filters: Filter | None,
    handoff: tuple[socket.socket, socket.socket],
    config: dict[str, Any],
) -> dict[str, Any]:
    """Fork, watch, clean up; says how the program ended."""
    output, errors = os.pipe(), os.pipe()
    given = _input(job["stdin"])
    pid = os.fork()
    if pid == 0:
        program.become(job, (given, output[1], errors[1], channel), filters, handoff[1].fileno(), config["home"])
    for descriptor in (given, output[1], errors[1], channel):
        os.close(descriptor)
    watched = _Watched(pid, output[0], errors[0], job["limits"])
    try:
        if filters is not None:
            watched.hear(filters, _listener(handoff[0], watched.pidfd))
        watched.watch(control, config["scratch"])
    finally:
        watched.close()
        _end_all(pid)
        empty(config["scratch"])
    return watched.ended


def _input(text: str | None) -> int:
    """A descriptor from which the program reads its input."""
    if text is None:
        return os.open(os.devnull, os.O_RDONLY)
    descriptor = os.memfd_create("input")
    data = memoryview(text.encode())
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _listener(sock: socket.socket, pidfd: int) -> int:
    """The listener that the freshly forked process hands over; -1 if it died before."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    if sock.fileno() in (descriptor for descriptor, _ in poll.poll()):
        _, (listener,), _, _ = socket.recv_fds(sock, 1, 1)
        return int(listener)
    return -1


class _Watched:
    """One running program: its output, its held calls, its end."""

    def __init__(self, pid: int, output: int, errors: int, limits: dict[str, Any]) -> None:
        self.pid, self.limits = pid, limits
        self.pidfd = os.pidfd_open(pid)
        self.texts = {output: bytearray(), errors: bytearray()}
        self.output, self.errors = output, errors
        self.filters: Filter | None = None
        self.listener = -1
        self.threads = 1
        self.ended: dict[str, Any] = {"forbidden": None, "timeout": False, "overflow": False, "signal": None, "exit": None}
        self.poll = select.poll()
        for descriptor in (self.pidfd, output, errors):
            os.set_blocking(descriptor, False)
            self.poll.register(descriptor, select.POLLIN)

    def hear(self, filters: Filter, listener: int) -> None:
        """Take the listener on which held calls arrive."""
        self.filters, self.listener = filters, listener
        if listener >= 0:
            self.poll.register(listener, select.POLLIN)

    def watch(self, control: socket.socket, scratch: str) -> None:
        """Until the program has ended, by itself or because it was time to."""
        self.poll.register(control, select.POLLIN)
        started = time.monotonic()
        deadline = started + self.limits["seconds"]
        looked = started
        tick = _SIZE_TICK if self.filters else _TICK
        while True:
            now = time.monotonic()
            ready = dict(self.poll.poll(max(0.0, min(deadline - now, tick)) * 1000))
            if self.pidfd in ready:
                break
            if control.fileno() in ready:  # the tester has enough, or is gone
                self.end()
                self.poll.unregister(control)
            if self.listener in ready:
                self._held(ready[self.listener])
            for descriptor in self.texts.keys() & ready.keys():
                self._read(descriptor)
            now = time.monotonic()
            if now > deadline:
                self.end(timeout=True)
            if now - looked > tick:
                looked = now
                self._look(scratch)
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            self.ended["signal"] = os.WTERMSIG(status)
        else:
            self.ended["exit"] = os.WEXITSTATUS(status)
        for descriptor in list(self.texts):
            self._read(descriptor)
        output, errors = bytes(self.texts[self.output]), bytes(self.texts[self.errors][-4000:])
        self.ended |= {"seconds": time.monotonic() - started, "output": output, "errors": errors}

    def end(self, **why: Any) -> None:
        """Kill the program, and remember why."""
        self.ended |= why
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self.pidfd, self.output, self.errors, self.listener):
            if descriptor >= 0:
                os.close(descriptor)

    def _held(self, event: int) -> None:
        assert self.filters is not None
        if event & select.POLLIN:
            with contextlib.suppress(OSError):
                number, name, thread = self.filters.held_call(self.listener)
                self.threads += thread
                if thread and self.threads <= self.limits["threads"]:
                    let_run(self.listener, number)
                else:
                    self.end(forbidden="thread" if thread else name)
        elif event & select.POLLHUP:
            self.poll.unregister(self.listener)

    def _read(self, descriptor: int) -> None:
        text = self.texts[descriptor]
        try:
            while data := os.read(descriptor, 65536):
                text += data
                if len(text) > self.limits["output"]:
                    self.end(overflow=True)
                    return
        except BlockingIOError:
            return
        with contextlib.suppress(KeyError):  # end of file, or already seen
            self.poll.unregister(descriptor)

    def _look(self, scratch: str) -> None:
        """See how many processes there are and how much was written, where the kernel does not see to it."""
        if self.filters is None and sum(1 for _ in _descendants()) > self.limits["threads"]:
            self.end(forbidden="fork")
            _end_all(self.pid)
        if _written(scratch, self.limits["file"]) > self.limits["file"]:
            self.end(overflow=True)


def _written(folder: str, enough: int) -> int:
    """Bytes of the files in a folder and below; stops counting at `enough`."""
    total, folders = 0, [folder]
    while folders and total <= enough:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                total += 4096  # a file's or a folder's own
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _end_all(pid: int) -> None:
    """End whatever a program has left, and wait until it is gone."""
    for _ in range(1000):
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            for other in _descendants():
                with contextlib.suppress(OSError):
                    os.kill(other, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _descendants() -> Iterator[int]:
    """Every process below this one."""
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children") as file:
                    found = [int(word) for word in file.read().split()]
                waiting += found
                yield from found


def empty(folder: str) -> None:
    """Remove all that lies in a folder, however deep and however protected."""
    spare = 0
    os.chmod(folder, 0o700)
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):  # folders within move up, so that no path ever gets long
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                    spare += 1
                    os.rename(inner.path, f"{folder}/.{spare}.{time.monotonic_ns()}")
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
