"""The tester: runs a benchmark's assertions against programs that live in other processes. One tester serves many programs in turn."""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from . import bounds, wire
from .assertions import UNIT, prepare
from .candidate import IN_THE_TESTS, Candidate, NotStartedError, StopError, Verdict
from .comparison import same_output, same_value
from .opaque import Proxy
from .standard import OpaqueError, TooLargeError

Limits = tuple[float, int, int, int, int, int, float]
"""As in `Order`: seconds first."""

PASS: Verdict = ("pass", "")
WRONG: Verdict = ("wrong_answer", "")
_LONGEST_DETAIL = 500  # characters of a verdict: what a program calls its exceptions must not fill this process or the host's


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
    gc.collect()
    gc.freeze()
    bounds.prepare()
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
        except Exception as error:  # a fault of ours, or of the tests before they came to the program
            found = _unjudged(error)
        wire.send(host, found | {"seconds": time.monotonic() - started})


def _stopped(candidate: Candidate, limits: Limits, judge: Callable[[], None]) -> Verdict | None:
    """Judge within what the program may use of time and memory. Returns what came in between that is the program's doing, if anything.

    Raises:
        Exception: whatever else came in between.
    """
    try:
        with bounds.bounded(limits[0], limits[1]):
            judge()
    except StopError:
        return None  # the candidate knows why
    except bounds.TooSlowError as error:
        candidate.idle = error.idle
        return "timeout", IN_THE_TESTS
    except MemoryError:
        return "memory", IN_THE_TESTS
    return None


class _Assertions:
    """What became of each guarded statement.

    Attributes:
        broken_off: why the tests went no further, from outside of these statements.
    """

    def __init__(self, candidate: Candidate, lines: list[int], names: frozenset[str], reaches: str) -> None:
        self._candidate = candidate
        self._lines = lines
        self._names = names
        self._reaches = reaches
        self._found: dict[int, Verdict] = {}
        self.broken_off: Verdict | None = None
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
        if isinstance(error, (bounds.TooSlowError, StopError)):
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
        if isinstance(error, ImportError) and self._imports(error.name):
            return "harness_error", f"import_error: {error.name or error}"
        if isinstance(error, TooLargeError):
            return self._candidate.verdict_of_arguments(error)
        if isinstance(error, MemoryError):
            return "memory", IN_THE_TESTS
        if isinstance(error, TypeError) and str(error).startswith("catching classes"):
            return raised[1] if raised else ("harness_error", "the tests catch a class of the program that is no exception")
        if isinstance(error, NameError) and error.name is not None and self._candidate.answered == self._answered:
            return "exception", "NameError"
        if self._candidate.answered:  # the tests could not do with its answers what they do with right ones
            return "wrong_answer", type(error).__name__
        return "harness_error", f"{type(error).__name__}: {error}"

    def _imports(self, module: str | None) -> bool:
        """Whether the tests' own text imports a module; otherwise they were made to by what the program answered."""
        return module is None or any(name.partition(".")[0] == module.partition(".")[0] for name in self._names)

    def results(self) -> list[tuple[int, Verdict]]:
        """(line, verdict) of the statements that were reached."""
        return [(self._lines[index], verdict) for index, verdict in sorted(self._found.items())]


def _assertions(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run test code that calls the program's functions by name, or a `check` that is handed the entry point."""
    code, lines, names, reaches = prepare(tests["code"])
    if "seed" in names and "random" in source:
        reaches = reaches or "seed"
    candidate = Candidate(control, source, limits)
    found = _Assertions(candidate, lines, names, reaches)

    def judge() -> None:
        candidate.load()
        try:
            namespace = _namespace(candidate, tests, names)
            namespace[UNIT] = found
            exec(code, namespace)
        except (StopError, bounds.TooSlowError):
            raise
        except BaseException as error:
            found.broken_off = found.verdict(error)

    with candidate:
        stopped = _stopped(candidate, limits, judge)
    return _outcome(candidate.fatal or stopped or found.broken_off, found.results(), len(lines), candidate)


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
            namespace[name] = candidate.stand_in(name)
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
        _supports[code] = compile(code.removeprefix("\ufeff"), "<support>", "exec", dont_inherit=True)
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
    return {
        "verdict": _cut(verdict), "tests": [(where, _cut(each)) for where, each in results], "count": count,
        "output": candidate.output[-4000:], "errors": candidate.errors, "cpu": candidate.cpu, "idle": candidate.idle,
    }  # fmt: skip


def _unjudged(error: Exception) -> dict[str, Any]:
    verdict = _cut(("harness_error", f"{type(error).__name__}: {error}"))
    return {"verdict": verdict, "tests": [], "count": 0, "output": b"", "errors": b"", "cpu": 0.0, "idle": False}


def _cut(verdict: Verdict) -> Verdict:
    return verdict[0], verdict[1][:_LONGEST_DETAIL]


def _calls(control: socket.socket, source: str, tests: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Call the entry point with each case's arguments, and compare what it returns."""
    candidate = Candidate(control, source, limits)
    results: list[tuple[int, Verdict]] = []

    def judge() -> None:
        candidate.load()
        for number, (arguments, expected) in enumerate(tests["cases"]):
            results.append((number, _call(candidate, tests["entry_point"], tuple(arguments), expected, tests)))

    with candidate:
        stopped = _stopped(candidate, limits, judge)
    return _outcome(candidate.fatal or stopped, results, len(tests["cases"]), candidate)


def _call(candidate: Candidate, name: str, arguments: tuple[Any, ...], expected: Any, tests: dict[str, Any]) -> Verdict:
    candidate.in_doubt.clear()
    try:
        value = candidate.call(name, arguments, {})
        if same_value(value, expected, tests["tolerance"]):
            return PASS
        wrapped = tests["rule"] == "apps" and isinstance(expected, list) and len(expected) == 1
        if wrapped and same_value(value, expected[0], tests["tolerance"]):
            return PASS
    except (StopError, bounds.TooSlowError):
        raise
    except OpaqueError as error:
        return "harness_error", str(error)
    except TooLargeError as error:
        return candidate.verdict_of_arguments(error)
    except BaseException as error:
        if candidate.raised is not None and candidate.raised[0] is error:
            return candidate.raised[1]
        if isinstance(error, MemoryError):
            raise
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
        verdict = _written(candidate, expected, tests["tolerance"], limits)
        cpu, idle = max(cpu, candidate.cpu), idle or candidate.idle
        results.append((number, verdict))
        if verdict[0] in ("timeout", "forbidden", "syntax_error"):
            fatal = verdict
            break
    assert candidate is not None
    return _outcome(fatal, results, len(tests["cases"]), candidate) | {"cpu": cpu, "idle": idle}


def _written(candidate: Candidate, expected: str, tolerance: float, limits: Limits) -> Verdict:
    """Wait until a program has come to its end, and compare what it wrote."""
    same = False

    def compare() -> None:
        nonlocal same
        same = same_output(candidate.output.decode("utf-8", "replace"), expected, tolerance)

    with candidate:
        stopped = _stopped(candidate, limits, candidate.ended)
    return candidate.fatal or stopped or _stopped(candidate, limits, compare) or (PASS if same else WRONG)


_KINDS: dict[str, Callable[..., dict[str, Any]]] = {"assertions": _assertions, "calls": _calls, "outputs": _outputs}
