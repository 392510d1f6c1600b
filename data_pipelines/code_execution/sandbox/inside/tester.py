"""The tester: runs a benchmark's assertions against programs that live in other processes. One tester serves many programs in turn."""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from . import wire
from .assertions import UNIT, prepare
from .candidate import Candidate, NotStartedError, StopError, Verdict
from .codec import TooLargeError
from .comparison import same_output, same_value
from .opaque import Proxy
from .orders import wall_seconds
from .standard import OpaqueError

Limits = tuple[float, int, int, int, int, int, float]
"""As in `Order`: seconds first."""

PASS: Verdict = ("pass", "")
WRONG: Verdict = ("wrong_answer", "")
_ALARM_AGAIN = 0.05  # seconds: tests may catch the first alarm
_GRACE = 0.25  # seconds after the program's own deadline, which is to strike first
_HARD_STOP = 2.0  # seconds of computing beyond that after which this process ends itself: one call into C that no alarm interrupts


def serve(host: socket.socket, control: socket.socket, imports: list[str]) -> None:
    """Judge programs as the host asks for it, until it is gone.

    Args:
        host: (program, tests, limits) in; verdict, tests, seconds and output out.
        control: the candidates' server.
        imports: packages to have ready.
    """
    sys.set_int_max_str_digits(0)
    sys.stderr = sys.stdout  # which leads nowhere: a runner of unit tests writes to it
    for name in imports:  # the tests need them at once, and importing them must not count as the tests' own time
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGALRM, _alarm)
    signal.signal(signal.SIGVTALRM, _alarm)
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
    """The tests themselves take too long with what the program answered.

    Attributes:
        idle: whether they took long without computing.
    """

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.idle = idle


_armed = False


def _alarm(number: int, frame: FrameType | None) -> None:
    if _armed:
        raise _TooSlowError(idle=number == signal.SIGALRM)


@contextlib.contextmanager
def _alarm_at(seconds: float) -> Iterator[None]:
    """Raise _TooSlowError once the tests' CPU time is over, or much more time has passed, again and again; end the process if that is to
    no avail."""
    global _armed
    _armed = True
    signal.setitimer(signal.ITIMER_REAL, wall_seconds(seconds), _ALARM_AGAIN)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _ALARM_AGAIN)
    signal.setitimer(signal.ITIMER_PROF, seconds + _HARD_STOP)
    try:
        yield
    finally:
        _disarm()


def _disarm() -> None:
    global _armed
    _armed = False
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


class _Assertions:
    """What became of each guarded statement."""

    def __init__(self, candidate: Candidate, lines: list[int], reaches: str) -> None:
        self._candidate = candidate
        self._lines = lines
        self._reaches = reaches
        self._found: dict[int, Verdict] = {}
        self._current = 0
        self._answered = 0

    def __call__(self, index: int) -> _Assertions:
        self._current = index
        self._answered = self._candidate.answered
        self._candidate.in_doubt.clear()
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
        if isinstance(error, OpaqueError):
            return "harness_error", str(error)
        if self._reaches and (self._reaches != "setrecursionlimit" or isinstance(error, RecursionError)):
            return "harness_error", f"the tests change what the program would see: {self._reaches}"
        if raised is not None and raised[0] is error:
            return raised[1]
        if self._candidate.in_doubt:
            return "harness_error", next(iter(self._candidate.in_doubt.values())).reason
        if isinstance(error, AssertionError):
            return WRONG
        if isinstance(error, ImportError):
            return "harness_error", f"import_error: {error.name or error}"
        if isinstance(error, TooLargeError):
            return "harness_error", f"an argument is too large: {error}"
        if isinstance(error, MemoryError):
            return "memory", "in the tests"
        if isinstance(error, TypeError) and str(error).startswith("catching classes"):
            return "harness_error", "the tests catch a class of the program that is no exception"
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
    code, lines, names, reaches = prepare(tests["code"])
    if "seed" in names and "random" in source:
        reaches = reaches or "seed"
    candidate = Candidate(control, source, limits)
    found = _Assertions(candidate, lines, reaches)
    stopped: Verdict | None = None
    idle = False
    try:
        with _alarm_at(limits[0] + _GRACE):
            candidate.load()
            namespace = _namespace(candidate, tests, names)
            namespace[UNIT] = found
            exec(code, namespace)
    except StopError:
        pass
    except _TooSlowError as error:
        _disarm()  # once more: the alarm may have struck while it was being disarmed
        stopped, idle = ("timeout", "in the tests"), error.idle
    except BaseException as error:
        stopped = found.verdict(error)
    fatal = candidate.finish() or stopped
    return _outcome(fatal, found.results(), len(lines), candidate) | {"idle": idle or candidate.idle}


def _namespace(candidate: Candidate, tests: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """What the tests see: the problem's own helpers, and a proxy for each function of the program that they name.

    A program's function never takes the place of a built-in or of a helper that the problem brings, unless it is the entry point.
    """
    namespace: dict[str, Any] = _Namespace(candidate, names & candidate.values) if names & candidate.values else {}
    namespace["__name__"] = "tests"
    if tests["support"]:
        exec(_compiled(tests["support"]), namespace)
    entry = tests["entry_point"]
    for name in names & candidate.functions:
        if name == entry or not (hasattr(builtins, name) or name in namespace):
            namespace[name] = Proxy(name, candidate.call)
    for name in names & candidate.exceptions.keys():
        if not (hasattr(builtins, name) or name in namespace):
            namespace[name] = candidate.exceptions[name]
    for name in names & candidate.modules:
        if name in sys.stdlib_module_names and name not in namespace:
            namespace[name] = importlib.import_module(name)
    if tests["candidate"]:
        namespace["candidate"] = Proxy(entry, candidate.call)
    return namespace


class _Namespace(dict[str, Any]):
    """What the tests see, where they also ask for values of the program: these are asked for each time, as they may change."""

    def __init__(self, candidate: Candidate, names: frozenset[str]) -> None:
        super().__init__()
        self._candidate, self._names = candidate, names

    def __missing__(self, name: str) -> Any:
        if name not in self._names or hasattr(builtins, name):
            raise KeyError(name)
        return self._candidate.read(name)


_supports: dict[str, Any] = {}


def _compiled(code: str) -> Any:
    if len(_supports) > 256:
        _supports.clear()
    if code not in _supports:
        _supports[code] = compile(code, "<support>", "exec", dont_inherit=True)
    return _supports[code]


def _outcome(fatal: Verdict | None, results: list[tuple[int, Verdict]], count: int, candidate: Candidate) -> dict[str, Any]:
    """Put a program's result together. It passes only if something was tested, everything held, and nothing was wrong at its end.

    The first test that does not hold decides: a program that a test has shown to be wrong stays so, whatever it makes the next one say.
    """
    failed = [verdict for _, verdict in results if verdict != PASS]
    first = failed[0] if failed else PASS
    verdict = fatal or first
    if verdict == PASS and not results:
        verdict = ("harness_error", "no test was reached")
    if first[0] == "harness_error" and verdict[0] != "forbidden":  # what comes after may follow from it
        verdict = first
    output = candidate.output[-4000:]
    return {"verdict": verdict, "tests": results, "count": count, "output": output, "errors": candidate.errors, "cpu": candidate.cpu}


def _calls(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Call the entry point with each case's arguments, and compare what it returns."""
    candidate = Candidate(control, source, limits)
    results: list[tuple[int, Verdict]] = []
    stopped: Verdict | None = None
    idle = False
    try:
        with _alarm_at(limits[0] + _GRACE):
            candidate.load()
            for number, (arguments, expected) in enumerate(tests["cases"]):
                results.append((number, _call(candidate, tests["entry_point"], tuple(arguments), expected, tests)))
    except StopError:
        pass
    except _TooSlowError as error:
        _disarm()  # once more: the alarm may have struck while it was being disarmed
        stopped, idle = ("timeout", "in the tests"), error.idle
    return _outcome(candidate.finish() or stopped, results, len(tests["cases"]), candidate) | {"idle": idle or candidate.idle}


def _call(candidate: Candidate, name: str, arguments: tuple[Any, ...], expected: Any, tests: dict[str, Any]) -> Verdict:
    candidate.in_doubt.clear()
    try:
        value = candidate.call(name, arguments, {})
        if same_value(value, expected, tests["tolerance"]):
            return PASS
        wrapped = tests["rule"] == "apps" and isinstance(expected, list) and len(expected) == 1
        if wrapped and same_value(value, expected[0], tests["tolerance"]):
            return PASS
    except (StopError, _TooSlowError):
        raise
    except OpaqueError as error:
        return "harness_error", str(error)
    except BaseException as error:
        if candidate.raised is not None and candidate.raised[0] is error:
            return candidate.raised[1]
        return "wrong_answer", type(error).__name__
    return ("harness_error", next(iter(candidate.in_doubt.values())).reason) if candidate.in_doubt else WRONG


def _outputs(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run the program afresh on each case's input and compare what it writes. After a timeout the rest is not run."""
    results: list[tuple[int, Verdict]] = []
    fatal: Verdict | None = None
    candidate = None
    cpu, idle = 0.0, False
    for number, (given, expected) in enumerate(tests["cases"]):
        enough = max(limits[2], 2 * len(expected.encode("utf-8", "surrogatepass")))
        candidate = Candidate(control, source, (*limits[:2], enough, *limits[3:]), given.replace("\r\n", "\n"))
        with contextlib.suppress(StopError, _TooSlowError), _alarm_at(limits[0] + _GRACE):
            candidate.ended()
        _disarm()
        verdict = candidate.finish()
        cpu, idle = max(cpu, candidate.cpu), idle or candidate.idle
        if verdict is None:
            same = same_output(candidate.output.decode("utf-8", "replace"), expected, tests["tolerance"])
            verdict = PASS if same else WRONG
        results.append((number, verdict))
        if verdict[0] in ("timeout", "forbidden", "syntax_error"):
            fatal = verdict
            break
    assert candidate is not None
    return _outcome(fatal, results, len(tests["cases"]), candidate) | {"cpu": cpu, "idle": idle}


_KINDS: dict[str, Callable[..., dict[str, Any]]] = {"assertions": _assertions, "calls": _calls, "outputs": _outputs}
