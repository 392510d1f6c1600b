"""The tester: runs a benchmark's assertions against programs that live in other processes. One tester serves many programs in turn."""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from types import FrameType, TracebackType
from typing import Any

from . import wire
from .assertions import UNIT, prepare
from .candidate import Candidate, NotStartedError, StopError, Verdict
from .codec import TooLargeError

Limits = tuple[float, int, int, int, int, int]
"""As in `Order`: seconds first."""

PASS: Verdict = ("pass", "")
WRONG: Verdict = ("wrong_answer", "")
_ALARM_AGAIN = 0.05  # seconds: tests may catch the first alarm
_GRACE = 0.25  # seconds after the program's own deadline, which is to strike first
_HARD_STOP = 2.0  # seconds of computing after which this process ends itself: one call into C that no alarm interrupts


def serve(host: socket.socket, control: socket.socket) -> None:
    """Judge programs as the host asks for it, until it is gone.

    Args:
        host: (program, tests, limits) in; verdict, tests, seconds and output out.
        control: the candidates' server.
    """
    signal.signal(signal.SIGALRM, _alarm)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    while True:
        try:
            source, tests, limits = wire.receive(host)
        except wire.ClosedError:
            return
        started = time.monotonic()
        try:
            found = _KINDS[tests["kind"]](control, source, tests, limits)
        except wire.ClosedError as error:  # the server is gone: so are we, and both are started anew
            with contextlib.suppress(wire.ClosedError):
                wire.send(host, {"broken": True, "started": not isinstance(error, NotStartedError)})
            return
        wire.send(host, found | {"seconds": time.monotonic() - started})


class _TooSlowError(BaseException):
    """The tests themselves take too long with what the program answered."""


_armed = False


def _alarm(number: int, frame: FrameType | None) -> None:
    if _armed:
        raise _TooSlowError


@contextlib.contextmanager
def _alarm_at(seconds: float) -> Iterator[None]:
    """Raise _TooSlowError once the time is over, again and again; end the process if that is to no avail."""
    global _armed
    _armed = True
    signal.setitimer(signal.ITIMER_REAL, seconds, _ALARM_AGAIN)
    signal.setitimer(signal.ITIMER_PROF, seconds + _HARD_STOP)
    try:
        yield
    finally:
        _disarm()


def _disarm() -> None:
    global _armed
    _armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)


class _Assertions:
    """What became of each guarded statement."""

    def __init__(self, candidate: Candidate, lines: list[int]) -> None:
        self._candidate = candidate
        self._lines = lines
        self._found: dict[int, Verdict] = {}
        self._current = 0
        self._answered = 0

    def __call__(self, index: int) -> _Assertions:
        self._current = index
        self._answered = self._candidate.answered
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is None:
            self._found.setdefault(self._current, PASS)
            return False
        if isinstance(error, (_TooSlowError, StopError)):
            return False
        if self._found.get(self._current, PASS) == PASS:
            self._found[self._current] = self.verdict(error)
        return True

    def verdict(self, error: BaseException) -> Verdict:
        """What an exception in the tests says about the program: its own, or the tests' reaction to what it answered."""
        raised = self._candidate.raised
        if raised is not None and raised[0] is error:
            return raised[1]
        if isinstance(error, AssertionError):
            return WRONG
        if isinstance(error, TooLargeError):
            return "harness_error", f"an argument is too large: {error}"
        if isinstance(error, MemoryError):
            return "memory", "in the tests"
        if self._candidate.answered > self._answered:
            return "wrong_answer", type(error).__name__
        if isinstance(error, NameError) and error.name is not None:
            return "exception", "NameError"
        return "harness_error", f"{type(error).__name__}: {error}"

    def results(self) -> list[tuple[int, Verdict]]:
        """(line, verdict) of the statements that were reached."""
        return [(self._lines[index], verdict) for index, verdict in sorted(self._found.items())]


def _assertions(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run test code that calls the program's functions by name, or a `check` that is handed the entry point."""
    code, lines, names = prepare(tests["code"])
    candidate = Candidate(control, source, limits)
    found = _Assertions(candidate, lines)
    stopped: Verdict | None = None
    try:
        with _alarm_at(limits[0] + _GRACE):
            candidate.load()
            namespace = _namespace(candidate, tests, names)
            namespace[UNIT] = found
            exec(code, namespace)
    except StopError:
        pass
    except _TooSlowError:
        _disarm()  # once more: the alarm may have struck while it was being disarmed
        stopped = ("timeout", "in the tests")
    except BaseException as error:
        stopped = found.verdict(error)
    fatal = candidate.finish() or stopped
    return _outcome(fatal, found.results(), len(lines), candidate)


def _namespace(candidate: Candidate, tests: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """What the tests see: the problem's own helpers, and a proxy for each function of the program that they name.

    A program's function never takes the place of a built-in or of a helper that the problem brings, unless it is the entry point.
    """
    namespace: dict[str, Any] = {"__name__": "tests"}
    if tests["support"]:
        exec(_compiled(tests["support"]), namespace)
    entry = tests["entry_point"]
    for name in names & candidate.functions:
        if name == entry or not (hasattr(builtins, name) or name in namespace):
            namespace[name] = _proxy(candidate, name)
    for name in names & candidate.modules:
        if name in sys.stdlib_module_names and name not in namespace:
            namespace[name] = importlib.import_module(name)
    if tests["candidate"]:
        namespace["candidate"] = _proxy(candidate, entry)
    return namespace


_supports: dict[str, Any] = {}


def _compiled(code: str) -> Any:
    if len(_supports) > 256:
        _supports.clear()
    if code not in _supports:
        _supports[code] = compile(code, "<support>", "exec")
    return _supports[code]


def _proxy(candidate: Candidate, name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        return candidate.call(name, arguments, named)

    call.__name__ = name
    return call


def _outcome(fatal: Verdict | None, results: list[tuple[int, Verdict]], count: int, candidate: Candidate) -> dict[str, Any]:
    """Put a program's result together. It passes only if something was tested, everything held, and nothing was wrong at its end."""
    failed = [verdict for _, verdict in results if verdict != PASS]
    verdict = fatal or (failed[0] if failed else PASS)
    if verdict == PASS and not results:
        verdict = ("harness_error", "no test was reached")
    if any(kind == "harness_error" for kind, _ in failed):
        verdict = next(one for one in failed if one[0] == "harness_error")
    return {"verdict": verdict, "tests": results, "count": count, "output": candidate.output[-4000:], "errors": candidate.errors}


def _calls(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Call the entry point with each case's arguments; what it returns must be equal, lists and tuples taken as the same."""
    candidate = Candidate(control, source, limits)
    results: list[tuple[int, Verdict]] = []
    stopped: Verdict | None = None
    try:
        with _alarm_at(limits[0] + _GRACE):
            candidate.load()
            for number, (arguments, expected) in enumerate(tests["cases"]):
                results.append((number, _call(candidate, tests["entry_point"], tuple(arguments), expected)))
    except StopError:
        pass
    except _TooSlowError:
        _disarm()  # once more: the alarm may have struck while it was being disarmed
        stopped = ("timeout", "in the tests")
    return _outcome(candidate.finish() or stopped, results, len(tests["cases"]), candidate)


def _call(candidate: Candidate, name: str, arguments: tuple[Any, ...], expected: Any) -> Verdict:
    try:
        return PASS if _listed(candidate.call(name, arguments, {})) == _listed(expected) else WRONG
    except (StopError, _TooSlowError):
        raise
    except BaseException as error:
        if candidate.raised is not None and candidate.raised[0] is error:
            return candidate.raised[1]
        return "wrong_answer", type(error).__name__


def _listed(value: Any) -> Any:
    """Tuples as lists, as in the JSON that expected values come from."""
    if type(value) in (list, tuple):
        return [_listed(item) for item in value]
    if type(value) is dict:
        return {key: _listed(item) for key, item in value.items()}
    return value


def _outputs(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run the program afresh on each case's input and compare what it writes. After a timeout the rest is not run."""
    results: list[tuple[int, Verdict]] = []
    fatal: Verdict | None = None
    candidate = None
    for number, (given, expected) in enumerate(tests["cases"]):
        candidate = Candidate(control, source, limits, given)
        with contextlib.suppress(StopError, _TooSlowError), _alarm_at(limits[0] + _GRACE):
            candidate.ended()
        _disarm()
        verdict = candidate.finish()
        if verdict is None:
            verdict = PASS if same_output(candidate.output.decode("utf-8", "replace"), expected) else WRONG
        results.append((number, verdict))
        if verdict[0] in ("timeout", "forbidden", "syntax_error"):
            fatal = verdict
            break
    assert candidate is not None
    return _outcome(fatal, results, len(tests["cases"]), candidate)


def same_output(written: str, expected: str) -> bool:
    """Whether two outputs are the same line by line, spaces at the ends aside, numbers by their value.

    >>> same_output("1.0  2\\n", "1 2"), same_output("1\\n2", "1 2")
    (True, False)
    """
    mine, theirs = ([line.strip() for line in text.strip().splitlines()] for text in (written, expected))
    return len(mine) == len(theirs) and all(one == other or _same_numbers(one, other) for one, other in zip(mine, theirs, strict=True))


def _same_numbers(one: str, other: str) -> bool:
    mine, theirs = one.split(), other.split()
    if len(mine) != len(theirs):
        return False
    try:
        pairs = [(Decimal(a), Decimal(b)) for a, b in zip(mine, theirs, strict=True)]
    except InvalidOperation:
        return False
    return all(a == b and not math.isnan(a) for a, b in pairs)


_KINDS: dict[str, Callable[..., dict[str, Any]]] = {"assertions": _assertions, "calls": _calls, "outputs": _outputs}
