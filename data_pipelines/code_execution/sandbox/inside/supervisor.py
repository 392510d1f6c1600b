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
from typing import Any

from . import confinement, lifelines, orders, program, wire, zygote
from .filters import Held, held_call, let_run
from .leftovers import Belongings, empty, written
from .orders import Ended, Order, wall_seconds
from .tampering import Watch

_TICK = 0.02  # seconds between two looks at processes and files, where no kernel filter holds them back
_SIZE_TICK = 0.25  # seconds between two looks at how much a program has written
_PATIENCE = 10.0  # seconds for the zygote to start a program, and to say that one has ended
_ASLEEP = 0.05  # share of a CPU below which a program is not being kept from it by others, but sleeps or waits


def serve(control: socket.socket, config: dict[str, Any], report: dict[str, Any]) -> None:
    """Run programs, one at a time, as they are asked for, until the other side is gone.

    Args:
        control: a job with the channel's descriptor in; how the program ended out. A frame without a descriptor ends the program.
        config: `scratch`, the folder that programs may write to; `own_user`, whether programs have a user id that nobody else has; the
            rest is the zygote's.
        report: sent first, once all is ready.

    Raises:
        OSError: the filter that is asked for cannot be had.
    """
    lifelines.adopt_orphans()
    confinement.hide()
    forker = _Forker(config)
    cleaner = _Cleaner(forker, config)
    wire.send(control, report)
    try:
        _serve(control, forker, cleaner)
    except (wire.ClosedError, lifelines.ParentGoneError):
        pass
    finally:
        forker.close()
        cleaner.clean()


def _serve(control: socket.socket, forker: _Forker, cleaner: _Cleaner) -> None:
    """Run programs until the tester or the zygote is gone, or a program has changed how the next ones would run."""
    idle = select.poll()
    idle.register(control, select.POLLIN)
    idle.register(forker.socket, select.POLLIN)
    while True:
        if forker.socket.fileno() in dict(idle.poll()):
            return _say(control, orders.NOT_STARTED)  # the zygote says nothing without being asked: it is gone
        data, descriptors = wire.receive_with_descriptors(control, 1)
        if descriptors:  # otherwise a program is told to end that has ended by itself
            ended = _run(data, descriptors[0], control, forker, cleaner)
            spoilt = cleaner.finds_tampering()
            wire.send(control, tuple(ended))
            if spoilt:
                return None


class _Forker:
    """The zygote, as the supervisor sees it.

    Attributes:
        pid: its process id.
        socket: programs go in; their statuses come out.
        pids: the process ids of programs come out, of each one before its first line runs.
        listener: where calls arrive that the filter holds; -1 where there is no filter.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.socket, theirs = socket.socketpair()
        self.pids, tells = os.pipe()
        os.set_blocking(self.pids, False)
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            lifelines.die_with(supervisor)
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

    def started(self) -> int:
        """The process id of the program that has been started; 0 as long as none has been."""
        with contextlib.suppress(BlockingIOError):
            (pid,) = _unpacked(program.WORD, os.read(self.pids, program.WORD.size))
            return int(pid)
        return 0

    def wake(self) -> None:
        """Let the zygote go on if something has stopped it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the zygote."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class _Cleaner:
    """Ends and removes what a program has left, and sees whether it has changed the processes that the next one needs."""

    def __init__(self, forker: _Forker, config: dict[str, Any]) -> None:
        self._forker = forker
        self.scratch: str = config["scratch"]
        self._folder = os.stat(self.scratch).st_ino
        self._folder_is_gone = False
        unfiltered = not config["filter"]
        self._watch = Watch(os.getpid(), forker.pid) if unfiltered else None
        self._belongings = Belongings(os.getuid()) if unfiltered and config["own_user"] else None

    def clean(self) -> None:
        """Leave no process, no file and no object of a program."""
        if self._watch:
            lifelines.end_descendants(spared=self._forker.pid)
        if self._belongings:
            self._belongings.remove()
        try:
            self._folder_is_gone = os.lstat(self.scratch).st_ino != self._folder
            empty(self.scratch)
        except OSError:
            self._folder_is_gone = True

    def finds_tampering(self) -> bool:
        """Whether the next program would not run as this one did."""
        return self._folder_is_gone or (self._watch is not None and self._watch.finds_changes())


def _run(data: bytes, channel: int, control: socket.socket, forker: _Forker, cleaner: _Cleaner) -> Ended:
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
        watched.watch(control, cleaner.scratch)
    except wire.ClosedError:
        if not watched.begun():
            _say(control, orders.NOT_STARTED)
        raise
    finally:
        os.close(output[0])
        os.close(errors[0])
        cleaner.clean()
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
        self.pid = 0  # as long as it has not started
        self.texts = {output: bytearray(), errors: bytearray()}
        self.output, self.errors = output, errors
        self.threads = 1
        self.killed = False
        self.clock = _Clock(time.monotonic(), _PATIENCE, _PATIENCE)  # of the zygote, until the program has started
        self.waiting: deque[Held] = deque()  # threads that must not begin before another has ended
        self.waiting_since = 0.0
        self.ended = Ended("", False, False, 0, 0, 0.0, False, b"", b"")
        self.poll = select.poll()
        for descriptor in (output, errors):
            os.set_blocking(descriptor, False)
        for descriptor in (forker.socket.fileno(), forker.pids, output, errors):
            self.poll.register(descriptor, select.POLLIN)
        if forker.listener >= 0:
            self.poll.register(forker.listener, select.POLLIN)

    def watch(self, control: socket.socket, scratch: str) -> None:
        """Until the program has ended, by itself or because it was time to. Its time begins when it has started.

        Raises:
            ClosedError: the zygote is gone, or does not do its work.
        """
        self.poll.register(control, select.POLLIN)
        looked = time.monotonic()
        tick = _TICK if self.forker.listener < 0 else _SIZE_TICK
        end: tuple[int, float] | None = None
        while end is None:
            ready = dict(self.poll.poll(max(0.001, min(self.clock.next - time.monotonic(), tick)) * 1000))
            if self.forker.pids in ready and self.begun():
                self.clock = _Clock(time.monotonic(), self.order.seconds, self.order.asleep)
            if self.forker.listener in ready:
                self._answer_held()
            if self.forker.socket.fileno() in ready:
                end = self.forker.status()
            elif control.fileno() in ready:  # the tester has enough, or is gone
                self.end()
                self.poll.unregister(control)
            for descriptor in self.texts.keys() & ready.keys():
                self._read(descriptor)
            now = time.monotonic()
            if end is None and now > self.clock.next:
                self._check(now)
            if now - looked > tick:
                looked = now
                self.forker.wake()
                self._look(scratch)
        if not self.begun():
            raise wire.ClosedError("the process of the program could not be prepared")
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
        """Kill the program, and remember why.

        Raises:
            ClosedError: it has not started.
        """
        if not self.begun():
            raise wire.ClosedError("nobody waits any more for the program to start")
        self.ended = self.ended._replace(**why)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.killed = True
        self.clock.next = time.monotonic() + _PATIENCE

    def begun(self) -> bool:
        """Whether the program has started: its process is prepared, and its first line may have run."""
        self.pid = self.pid or self.forker.started()
        return self.pid > 0

    def _check(self, now: float) -> None:
        """See whether the program's time is over, or the zygote's.

        Raises:
            ClosedError: the zygote has not started the program, or has not noticed its end.
        """
        if self.killed or not self.begun():
            raise wire.ClosedError("the zygote does not answer")
        if self.clock.is_over(now, self.pid):
            self.end(timeout=True, idle=self.clock.idle)

    def _answer_held(self) -> None:
        """Answer a call that the filter holds. What that takes of this process's time counts as the program's."""
        begun = time.thread_time()
        self._held()
        self.clock.charged += time.thread_time() - begun

    def _held(self) -> None:
        """A call that the filter holds: the zygote's own fork, a signal to itself, a thread; anything else is the program's end."""
        with contextlib.suppress(FileNotFoundError, InterruptedError):  # the caller is gone
            held = held_call(self.forker.listener)
            starts = held.name == "fork" and held.pid == self.forker.pid and not held.thread
            itself = held.name == "kill" and self.begun() and held.argument == self.pid
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
        if self.forker.listener < 0 and sum(1 for _ in lifelines.descendants(self.forker.pid)) > self.order.threads:
            self.end(forbidden="fork")
            lifelines.end_descendants(spared=self.forker.pid)
        if written(scratch, self.order.file) > self.order.file:
            self.end(overflow=True)


class _Clock:
    """When a program's time is over: as soon as it has used up its CPU time, and in any case after a while.

    Attributes:
        next: when to look again, on the monotonic clock.
        idle: whether it was over without the CPU time being used up, though the program had used some: others may be the reason.
        charged: seconds of CPU time that the program has used up in other processes.
    """

    def __init__(self, started: float, seconds: float, asleep: float) -> None:
        self._started, self._seconds, self._asleep = started, seconds, asleep
        self._rested: tuple[float, float] | None = None  # when it first seemed to sleep, and the CPU time it had used by then
        self.next = started + seconds  # on one core, nobody uses up CPU time faster than time passes
        self.idle = False
        self.charged = 0.0

    def is_over(self, now: float, pid: int) -> bool:
        """Whether the time of a process is over."""
        used = _cpu_seconds(pid) + self.charged
        if used >= self._seconds:
            return True
        passed = now - self._started
        sleeps = passed >= self._asleep and used < _ASLEEP * passed
        if sleeps and self._rested and used - self._rested[1] < _ASLEEP * (now - self._rested[0]):
            return True
        self.idle = passed >= wall_seconds(self._seconds)
        ends = self._started + (self._asleep if passed < self._asleep else wall_seconds(self._seconds))
        if sleeps and not self._rested:  # or the machine stood still for that long: look once more
            self._rested = now, used
            ends = now + self._asleep / 4
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
