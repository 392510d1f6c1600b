"""The sandbox: units over cores, one program or a million through them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from align.errors import AlignError
from align.machine import usable_cpus
from data_pipelines.code_execution.sandbox.isolation import (
    Isolation,
    Mechanism,
    Requirement,
    candidates,
    find_python,
    folders_of,
    missing_tool,
)
from data_pipelines.code_execution.sandbox.results import ExecutionResult, Level, Limits, read_result
from data_pipelines.code_execution.sandbox.tests import TOLERANCE, Assertions, Outputs, Tests, check_tolerance
from data_pipelines.code_execution.sandbox.unit import BrokenError, StartError, Unit, unanswered

logger = logging.getLogger(__name__)
RECYCLE = 20_000  # programs that a unit judges before another takes its place
CONFIRMING_SEED = 1
_ATTEMPTS = 5  # how often a program is tried whose server was gone before it began
_SURPRISING = {"crashed", "memory", "timeout", "output_limit", "harness_error"}  # what a program before may be the reason for
_ASLEEP = 2.0  # times the limit of CPU time after which a program is ended that sleeps
_CONTENDED = 1.5  # programs that run side by side share caches and cores, and take so much more CPU time at most


class Sandbox:
    """Runs programs away from the host. Safe to use from many threads and from asyncio.

    >>> with Sandbox(workers=1) as sandbox:                                  # doctest: +SKIP
    ...     sandbox.run("def add(a, b): return a + b", Assertions("assert add(1, 2) == 3")).verdict
    Verdict(kind='pass', detail='')

    Attributes:
        isolation: what it has found on this machine.
    """

    def __init__(
        self,
        isolation: Requirement | Isolation = "best-available",
        workers: int | None = None,
        *,
        python: str | None = None,
        packages: Sequence[str] = (),
        confirm: bool = False,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Find the strongest isolation that this machine has, by using it.

        Args:
            isolation: what is required, or an exact mechanism.
            workers: programs at a time (default: as many as this process may use CPUs).
            python: the interpreter that runs programs (default: this one, without its packages).
            packages: installed packages that programs and their tests may import.
            confirm: run a program that passes once more, with another hash seed; it must pass again.
            tolerance: of numbers with a fraction in expected outputs and values, where the tests do not say otherwise; 0: exact.

        Raises:
            AlignError: no interpreter, a package is missing, or the machine does not have what is required.
        """
        check_tolerance(tolerance)
        self.workers = workers or usable_cpus()
        self._confirm, self._tolerance = confirm, tolerance
        self._turns = _Turns()
        found = find_python(python)
        self._free: dict[int, queue.LifoQueue[Unit | None]] = {seed: queue.LifoQueue() for seed in (0, CONFIRMING_SEED)}
        for seed in self._free:
            for _ in range(self.workers):
                self._free[seed].put(None)
        if isinstance(isolation, Isolation):
            folders, imports = folders_of(packages) + isolation.packages, tuple(packages) + isolation.imports
            self.isolation = replace(isolation, python=found, packages=folders, imports=imports)
            first = Unit(self.isolation)
        else:
            self.isolation, first = strongest(isolation, found, folders_of(packages), tuple(packages))
        self._free[0].get()
        self._free[0].put(first)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="sandbox")

    def run(self, program: str, tests: Tests, limits: Limits | None = None) -> ExecutionResult:
        """Judge a program.

        Args:
            program: its text, run as it is.
            tests: assertions, calls or outputs.
            limits: what it may use.
        """
        limits = limits or Limits()
        result = self._judge(program, tests, limits, 0)
        if self._confirm and result.passed:
            again = self._judge(program, tests, limits, CONFIRMING_SEED)
            return again if not again.passed else result
        return result

    def run_batch(self, jobs: Iterable[tuple[str, Tests]], limits: Limits | None = None) -> Iterator[ExecutionResult]:
        """Judge (program, tests) pairs side by side; results in the order of the jobs, which are read as they are needed."""
        waiting: deque[Future[ExecutionResult]] = deque()
        for program, tests in jobs:
            waiting.append(self._threads.submit(self.run, program, tests, limits))
            if len(waiting) >= 4 * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    async def run_async(self, program: str, tests: Tests, limits: Limits | None = None) -> ExecutionResult:
        """`run` without blocking the event loop; as many at a time as there are workers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run, program, tests, limits)

    async def run_batch_async(self, jobs: Iterable[tuple[str, Tests]], limits: Limits | None = None) -> AsyncIterator[ExecutionResult]:
        """`run_batch` without blocking the event loop."""
        waiting: deque[asyncio.Task[ExecutionResult]] = deque()
        for program, tests in jobs:
            waiting.append(asyncio.ensure_future(self.run_async(program, tests, limits)))
            if len(waiting) >= 4 * self.workers:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()

    def _judge(self, program: str, tests: Tests, limits: Limits, seed: int) -> ExecutionResult:
        """Judge a program beside others. One whose time is over for their sake, perhaps, is judged again while nothing else runs."""
        allowed = limits if self.workers == 1 else replace(limits, seconds=_CONTENDED * limits.seconds)
        with self._turns.beside() as company:
            answer = self._answer(program, tests, (*vars(allowed).values(), _ASLEEP * limits.seconds), seed)
        doubtful = answer["idle"] if answer["verdict"][0] == "timeout" else answer["cpu"] > limits.seconds
        if doubtful and company.others:
            with self._turns.alone():
                answer = self._answer(program, tests, (*vars(limits).values(), _ASLEEP * limits.seconds), seed)
        if answer["cpu"] > limits.seconds and answer["verdict"][0] not in ("timeout", "forbidden"):
            answer["verdict"] = ("timeout", "")
        return read_result(answer, self.isolation.level)

    def _answer(self, program: str, tests: Tests, bounds: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """What a unit says of a program. If the unit turns out to be broken, what a new one says."""
        runs = len(tests.cases) if isinstance(tests, Outputs) else 1
        message = tests.as_message()
        if not isinstance(tests, Assertions) and tests.tolerance is None:
            message["tolerance"] = self._tolerance
        answer, sound = self._judged(seed, RECYCLE, (program, message, bounds, runs))
        if not sound:
            answer, _ = self._judged(seed, 1, (program, message, bounds, runs))
        return answer

    def _judged(self, seed: int, served: int, job: tuple[Any, ...]) -> tuple[dict[str, Any], bool]:
        """What a unit that has judged fewer than `served` programs says of one, and whether the unit was in order.

        A unit that gives a verdict which its own condition might be the reason for has to judge a program that is known to be right.
        """
        for _ in range(_ATTEMPTS):
            unit = self._take(seed, served)
            try:
                answer = unit.judge(*job)
                return answer, unit.closed or answer["verdict"][0] not in _SURPRISING or unit.is_sound()
            except BrokenError as error:
                if error.started:
                    return unanswered(error.verdict), False
            finally:
                self._free[seed].put(None if unit.closed else unit)
        return unanswered(("harness_error", "no process for the program could be prepared")), False

    def _take(self, seed: int, served: int) -> Unit:
        """A unit for the calling thread alone; a new one in the place of one that is gone or has judged so many programs."""
        unit = self._free[seed].get()
        if unit is not None and unit.served < served:
            return unit
        if unit is not None:
            unit.close()
        try:
            return Unit(self.isolation, seed)
        except StartError as error:
            self._free[seed].put(None)
            raise AlignError(f"the sandbox cannot be started any more: {error}") from error

    def close(self) -> None:
        """End every process of the sandbox."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for units in self._free.values():
            with contextlib.suppress(queue.Empty):
                while True:
                    if (unit := units.get_nowait()) is not None:
                        unit.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class _Company:
    """Whether other programs ran while this one did."""

    others = False


class _Turns:
    """Programs run beside each other, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[_Company] = set()
        self._waiting = 0

    @contextlib.contextmanager
    def beside(self) -> Iterator[_Company]:
        """Run beside others, unless one runs alone or waits to: that comes first."""
        company = _Company()
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0)
            self._running.add(company)
            if len(self._running) > 1:
                for each in self._running:
                    each.others = True
        try:
            yield company
        finally:
            self._leave(company)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Run while nothing else does."""
        company = _Company()
        try:
            with self._changed:
                self._waiting += 1
                self._changed.wait_for(lambda: not self._running)
                self._running.add(company)
            yield
        finally:
            with self._changed:
                self._waiting -= 1
            self._leave(company)

    def _leave(self, company: _Company) -> None:
        with self._changed:
            self._running.discard(company)
            self._changed.notify_all()


def strongest(requirement: Requirement, python: str, folders: tuple[str, ...], imports: tuple[str, ...]) -> tuple[Isolation, Unit]:
    """The strongest isolation that works here, tried by using it, and the unit that showed it.

    Raises:
        AlignError: the machine does not have what is required; says what to install.
    """
    reasons: list[str] = []
    for mechanism in candidates(requirement):
        isolation = Isolation(mechanism, python, folders, imports)
        unit, reason = _tried(isolation)
        if unit is not None:
            if requirement == "best-available" and isolation.level == "limits":
                _warn("; ".join(reasons))
            return isolation, unit
        reasons.append(f"{mechanism}: {reason}")
    advice = "install bubblewrap, or allow user namespaces (sysctl user.max_user_namespaces)" if requirement != "limits-only" else ""
    raise AlignError(f"isolation is '{requirement}', but this machine cannot do it ({'; '.join(reasons)}): {advice}")


def _tried(isolation: Isolation) -> tuple[Unit | None, str]:
    if reason := missing_tool(isolation.mechanism):
        return None, reason
    try:
        return Unit(isolation), ""
    except StartError as error:
        return None, str(error)


def available() -> dict[Mechanism, str]:
    """Every mechanism, strongest first, with an empty text where it works here and the reason where it does not."""
    found: dict[Mechanism, str] = {}
    for mechanism in [*candidates("best-available")]:
        unit, reason = _tried(Isolation(mechanism, find_python(None)))
        found[mechanism] = reason
        if unit is not None:
            unit.close()
    return found


_warned: set[Level] = set()


def _warn(reasons: str) -> None:
    if "limits" not in _warned:
        _warned.add("limits")
        logger.warning(
            "Programs run WITHOUT ISOLATION, bounded in time and memory alone: they can read your files and reach the network. "
            "Install bubblewrap, or use a kernel with user namespaces, or Landlock and seccomp. (%s)",
            reasons,
        )
