"""The supervisor: watches the one program that runs, ends it, and leaves nothing of it behind. It never runs a line of a program itself.

It is as untrusted as the programs: it holds no secret and no test, and what it says can only make a program fail.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from . import confinement, orders, wire, zygote
from .filters import Held, held_call, let_run
from .orders import Ended, Order, wall_seconds

_TICK = 0.02  # seconds between two looks at processes and files, where no kernel filter holds them back
_SIZE_TICK = 0.25  # seconds between two looks at how much a program has written
_ASLEEP = 0.05  # share of a CPU below which a program is not being kept from it by others, but sleeps or waits


def serve(control: socket.socket, config: dict[str, Any], report: dict[str, Any]) -> None:
    """Run programs, one at a time, as they are asked for, until the other side is gone.

    Args:
        control: a job with the channel's descriptor in; how the program ended out. A frame without a descriptor ends the program.
        config: `scratch`, the folder that programs may write to; the rest is the zygote's.
        report: sent first, once all is ready.

    Raises:
        OSError: the filter that is asked for cannot be had.
    """
    confinement.adopt_orphans()
    confinement.hide()
    forker = _Forker(config)
    wire.send(control, report)
    try:
        _serve(control, forker, config["scratch"])
    except wire.ClosedError:
        pass
    finally:
        forker.close()


def _serve(control: socket.socket, forker: _Forker, scratch: str) -> None:
    idle = select.poll()
    idle.register(control, select.POLLIN)
    idle.register(forker.socket, select.POLLIN)
    while True:
        if forker.socket.fileno() in dict(idle.poll()):
            return _say(control, orders.NOT_STARTED)  # the zygote says nothing without being asked: it is gone
        data, descriptors = wire.receive_with_descriptors(control, 1)
        if descriptors:  # otherwise a program is told to end that has ended by itself
            wire.send(control, tuple(_run(data, descriptors[0], control, forker, scratch)))


class _Forker:
    """The zygote, as the supervisor sees it.

    Attributes:
        pid: its process id.
        socket: programs go in; their statuses come out.
        pids: the process ids of programs, to be read only when one is needed: most programs need no signal.
        listener: where calls arrive that the filter holds; -1 where there is no filter.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.socket, theirs = socket.socketpair()
        self.pids, tells = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            os.close(self.pids)
            zygote.serve(theirs, tells, config)
            os._exit(0)
        theirs.close()
        os.close(tells)
        _, descriptors, _, _ = socket.recv_fds(self.socket, 1, 1)
        if config["filter"] and not descriptors:
            raise OSError("the zygote could not filter its system calls")
        self.listener = descriptors[0] if descriptors else -1

    def status(self) -> tuple[int, float]:
        """The status of the program that ran, and its seconds of CPU time.

        Raises:
            ClosedError: the zygote is gone, perhaps before it has read the order.
        """
        try:
            status, seconds = _unpacked(zygote.STATUS, self.socket.recv(zygote.STATUS.size))
            return status, seconds
        except ConnectionError as error:
            raise wire.ClosedError(str(error)) from error

    def close(self) -> None:
        """End the zygote."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _run(data: bytes, channel: int, control: socket.socket, forker: _Forker, scratch: str) -> Ended:
    """Have a program started, watch it, clean up; says how it ended."""
    order = orders.head(data)
    output, errors = os.pipe(), os.pipe()
    text = orders.text_of(data, order)
    given = os.open(os.devnull, os.O_RDONLY) if text is None else _file_in_memory(text)
    theirs = [_file_in_memory(orders.without_text(data, order)), given, output[1], errors[1], channel]
    watched = _Watched(forker, output[0], errors[0], order)
    try:
        wire.send_bytes(forker.socket, b"", theirs)
        for descriptor in theirs:
            os.close(descriptor)
        watched.watch(control, scratch)
    except wire.ClosedError:
        if not watched.begun():
            _say(control, orders.NOT_STARTED)
        raise
    finally:
        os.close(output[0])
        os.close(errors[0])
        if forker.listener < 0:
            _end_all(forker.pid)
        empty(scratch)
    return watched.ended


def _say(control: socket.socket, what: Any) -> None:
    with contextlib.suppress(wire.ClosedError):
        wire.send(control, what)


def _file_in_memory(content: bytes | memoryview) -> int:
    """A descriptor from which this is read. The file is gone with the last descriptor of it."""
    descriptor = os.memfd_create("program")
    data = memoryview(content)
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Watched:
    """One running program: its output, its held calls, its end."""

    def __init__(self, forker: _Forker, output: int, errors: int, order: Order) -> None:
        self.forker, self.order = forker, order
        self.pid = 0  # as long as it is not there
        self.texts = {output: bytearray(), errors: bytearray()}
        self.output, self.errors = output, errors
        self.threads = 1
        self.waiting: deque[Held] = deque()  # threads that must not begin before another has ended
        self.waiting_since = 0.0
        self.ended = Ended("", False, False, 0, 0, 0.0, False, b"", b"")
        self.poll = select.poll()
        for descriptor in (forker.socket.fileno(), output, errors):
            os.set_blocking(descriptor, descriptor == forker.socket.fileno())
            self.poll.register(descriptor, select.POLLIN)
        if forker.listener >= 0:
            self.poll.register(forker.listener, select.POLLIN)

    def watch(self, control: socket.socket, scratch: str) -> None:
        """Until the program has ended, by itself or because it was time to.

        Raises:
            ClosedError: the zygote is gone.
        """
        self.poll.register(control, select.POLLIN)
        looked = time.monotonic()
        clock = _Clock(looked, self.order.seconds)
        tick = _TICK if self.forker.listener < 0 else _SIZE_TICK
        end: tuple[int, float] | None = None
        while end is None:
            ready = dict(self.poll.poll(max(0.001, min(clock.next - time.monotonic(), tick)) * 1000))
            if self.forker.listener in ready:
                self._held()
            if self.forker.socket.fileno() in ready:
                end = self.forker.status()
            elif control.fileno() in ready:  # the tester has enough, or is gone
                self.end()
                self.poll.unregister(control)
            for descriptor in self.texts.keys() & ready.keys():
                self._read(descriptor)
            now = time.monotonic()
            if end is None and now > clock.next and clock.is_over(now, self._process()):
                self.end(timeout=True, idle=clock.idle)
            if now - looked > tick:
                looked = now
                self._look(scratch)
        self._process()  # which leaves nothing unread for the next program
        for descriptor in list(self.texts):
            self._read(descriptor)
        status, seconds = end
        killed = os.WIFSIGNALED(status)
        self.ended = self.ended._replace(
            signal=os.WTERMSIG(status) if killed else 0,
            exit=0 if killed else os.WEXITSTATUS(status),
            cpu=seconds,
            output=bytes(self.texts[self.output]),
            errors=bytes(self.texts[self.errors][-4000:]),
        )

    def end(self, **why: Any) -> None:
        """Kill the program, and remember why."""
        self.ended = self.ended._replace(**why)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process(), signal.SIGKILL)

    def begun(self) -> bool:
        """Whether the zygote has forked the program."""
        poll = select.poll()
        poll.register(self.forker.pids, select.POLLIN)
        return bool(self.pid) or any(event & select.POLLIN for _, event in poll.poll(0))

    def _process(self) -> int:
        """The program's process id; waits until the zygote has forked."""
        if not self.pid:
            (self.pid,) = _unpacked(zygote.WORD, os.read(self.forker.pids, zygote.WORD.size))
        return self.pid

    def _held(self) -> None:
        """A call that the filter holds: the zygote's own fork, a signal to itself, a thread; anything else is the program's end."""
        with contextlib.suppress(OSError):
            held = held_call(self.forker.listener)
            starts = held.name == "fork" and held.pid == self.forker.pid and not held.thread
            itself = held.name == "kill" and held.argument == self._process()
            if held.thread:
                self.waiting_since = self.waiting_since if self.waiting else time.monotonic()
                self.waiting.append(held)
            elif starts or itself or held.name == "exit":
                self.threads -= held.name == "exit"
                let_run(self.forker.listener, held)
            else:
                self.end(forbidden=held.name)
        self._let_threads_begin()

    def _let_threads_begin(self) -> None:
        while self.waiting and self.threads < self.order.threads:
            with contextlib.suppress(OSError):  # a signal came in between: the call is held once more, as another one
                let_run(self.forker.listener, self.waiting.popleft())
                self.threads += 1

    def _read(self, descriptor: int) -> None:
        text = self.texts[descriptor]
        try:
            while data := os.read(descriptor, 65536):
                text += data
                if len(text) > self.order.output:
                    self.end(overflow=True)
                    return
        except BlockingIOError:
            return
        with contextlib.suppress(KeyError):  # end of file, or already seen
            self.poll.unregister(descriptor)

    def _look(self, scratch: str) -> None:
        """See how many processes and threads there are and how much was written, where the kernel does not see to it."""
        if self.waiting and time.monotonic() - self.waiting_since > _SIZE_TICK:  # time enough for one that is about to end
            self.end(forbidden="thread")
        if self.forker.listener < 0 and sum(1 for _ in _descendants(self.forker.pid)) > self.order.threads:
            self.end(forbidden="fork")
            _end_all(self.forker.pid)
        if _written(scratch, self.order.file) > self.order.file:
            self.end(overflow=True)


class _Clock:
    """When a program's time is over: as soon as it has used up its CPU time, and in any case after a while.

    Attributes:
        next: when to look again, on the monotonic clock.
        idle: whether it was over without the CPU time being used up.
    """

    def __init__(self, started: float, seconds: float) -> None:
        self._started, self._seconds = started, seconds
        self.next = started + seconds  # on one core, nobody uses up CPU time faster than time passes
        self.idle = False

    def is_over(self, now: float, pid: int) -> bool:
        """Whether the time of a process is over."""
        used = _cpu_seconds(pid)
        if used >= self._seconds:
            return True
        passed = now - self._started
        asleep = passed >= 2 * self._seconds and used < _ASLEEP * passed  # later than tests end that compute for too long meanwhile
        self.idle = asleep or passed >= wall_seconds(self._seconds)
        ends = self._started + (2 * self._seconds if passed < 2 * self._seconds else wall_seconds(self._seconds))
        self.next = min(now + self._seconds - used, ends)
        return self.idle


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads; none where it is gone. Its clock has its id in its number: see clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _unpacked(form: struct.Struct, data: bytes) -> tuple[Any, ...]:
    if len(data) < form.size:
        raise wire.ClosedError("the zygote is gone")
    return form.unpack(data)


def _written(folder: str, enough: int) -> int:
    """Bytes of the files in a folder and below; stops counting at `enough`."""
    total, folders = 0, [folder]
    while folders and total <= enough:
        folder = folders.pop()
        if len(folder) > 4000:  # deeper than a path may be long: what lies there cannot be counted, and takes long to remove
            return enough + 1
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                total += 4096  # a file's or a folder's own
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _end_all(zygote_pid: int) -> None:
    """End whatever a program has left, and wait until it is gone. Needed only where no filter keeps programs from forking."""
    while remaining := list(_descendants(zygote_pid)):
        for pid in remaining:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def _descendants(zygote_pid: int) -> Iterator[int]:
    """Every process below this one but the zygote."""
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children") as file:
                    found = [int(word) for word in file.read().split()]
                waiting += found
                yield from (pid for pid in found if pid != zygote_pid)


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
