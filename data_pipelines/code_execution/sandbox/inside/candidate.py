"""The tester's side of one program: start it, call its functions, see how it ended."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import select
import signal
import socket
from typing import Any

from . import wire
from .codec import MAX_BYTES, MAX_DEPTH, Token, decode, encode
from .opaque import Opaque
from .orders import LONGEST_NAME, NOT_STARTED, Ended, Order, is_short, pack
from .standard import OpaqueError, TooLargeError, exception
from .stopping import REASONS

Verdict = tuple[str, str]
"""Kind and detail, as ../results.py names them."""

IN_THE_TESTS = "in the tests"  # where time or memory ran out that the program's answers have cost
_PATIENCE = 50  # milliseconds
_FORGED: Verdict = ("forbidden", "channel")
_SILENT: Verdict = ("crashed", "")  # it said nothing more
_DEPTH_OF_ARGUMENTS = 2 * MAX_DEPTH  # the tests may wrap what came out of the program before they hand it back
_FORMS: dict[str, tuple[type, ...]] = {
    "loaded": (list, list, list, list), "failed": (str, str, str, tuple), "ended": (), "returned": (int, object, object, object),
    "raised": (int, str, str, str, tuple), "too_large": (int,), "stopped": (str,),
}  # fmt: skip
"""What a program's process may say, and of which types the parts are."""


class StopError(BaseException):
    """The program can answer nothing more. Not an Exception, so that tests which catch those do not catch it."""


class NotStartedError(wire.ClosedError):
    """The server is gone, and no line of the program has run."""


class Candidate:
    """One program in its process. As a context it is ended when the block ends: see `finish`.

    Attributes:
        functions, modules, values: names that the program defines, after `load`.
        exceptions: names of the program's own exceptions and of the classes that each is derived from, nearest first.
        fatal: why nothing more can be asked of it; None as long as it can.
        raised: the last exception that came out of the program, and its verdict.
        output: what it wrote, after `finish`.
        answered: calls that came back so far, with a value or an exception.
        cpu: seconds of CPU time that it took, after `finish`.
        idle: whether its time was over before its CPU time was used up, after `finish`.
        in_doubt: values that stayed in the program, by number, and that the tests have been given or have looked at; not those that
            they have handed back. A test that fails now may have failed because of them.
    """

    def __init__(self, control: socket.socket, source: str, limits: tuple[Any, ...], stdin: str | None = None) -> None:
        """Start it.

        Args:
            control: the supervisor.
            source: the program.
            limits: as `Order` begins.
            stdin: what a whole program reads; None: the program answers calls.

        Raises:
            NotStartedError: the supervisor is gone.
        """
        self._control = control
        ours, theirs = socket.socketpair()
        self._channel = wire.Peer(ours, 2 * MAX_BYTES)
        self._numbers = 0
        self.functions: frozenset[str] = frozenset()
        self.modules: frozenset[str] = frozenset()
        self.values: frozenset[str] = frozenset()
        self.exceptions: dict[str, list[str]] = {}
        self._stand_ins: dict[str, type[BaseException]] = {}
        self._received = 0
        self.in_doubt: dict[int, Opaque] = {}
        self.cpu, self.idle = 0.0, False
        self.fatal: Verdict | None = None
        self.raised: tuple[BaseException, Verdict] | None = None
        self.output = b""
        self.errors = b""
        self.answered = 0
        self._is_script = stdin is not None
        text = b"" if stdin is None else stdin.encode("utf-8", "surrogatepass")
        order = Order._make((*limits, stdin is not None, -1 if stdin is None else len(text)))
        try:
            wire.send_bytes(control, pack(order, source.encode("utf-8", "surrogatepass"), text), [theirs.fileno()])
        except wire.ClosedError as error:
            raise NotStartedError(str(error)) from error
        theirs.close()

    def load(self) -> None:
        """Wait until the program has run its top level.

        Raises:
            StopError: it has not come that far.
        """
        *names, exceptions = self._loaded("loaded")
        if not all(type(classes) is list and classes for classes in exceptions):
            self._stop(_FORGED)
        if not all(type(name) is str for part in (*names, *exceptions) for name in part):
            self._stop(_FORGED)
        self.functions, self.modules, self.values = map(frozenset, names)
        self.exceptions = {name: bases for name, *bases in exceptions}

    def ended(self) -> None:
        """Wait until a script has come to its end.

        Raises:
            StopError: it failed, or was ended.
        """
        self._loaded("ended")

    def _loaded(self, kind: str) -> list[Any]:
        """What a program says once its text has been run, unless that failed."""
        said, *rest = self._receive(kind, "failed", "too_large")
        if said == "too_large":
            self._stop(("output_limit", "names"))
        if said == "failed":
            nearest, own, message, _ = rest
            if not is_short(own, message):
                self._stop(_FORGED)
            self._stop(verdict_of(nearest, own, message, loading=True))
        return rest

    def call(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the program. What the call changes in its arguments is changed in them here too.

        Raises:
            StopError: no answer came, or one that makes no sense.
            OpaqueError: an argument cannot be handed over.
            Exception: the program's own exception's stand-in, or the built-in exception nearest to it.
        """
        result, changed, place = self._asked(name, arguments, named)
        if changed is not None:
            if type(changed) is not tuple or [type(part) for part in changed] != [tuple, dict]:
                self._stop(_FORGED)
            _update(arguments, changed[0])
            _update(named, changed[1])
        same = type(place) is int and 0 <= place < len(arguments) and type(arguments[place]) is type(result)
        return arguments[place] if same and type(result) in _KEPT else result

    def read(self, name: str) -> Any:
        """What a name that is no function stands for in the program now; raises as `call` does."""
        return self._asked(name, None, None)[0]

    def advance(self, iterator: Opaque) -> Any:
        """The next item of an iterator that stayed in the program; raises as `call` does."""
        return self._asked(iterator, None, None)[0]

    def _asked(self, name: str | Opaque, arguments: tuple[Any, ...] | None, named: dict[str, Any] | None) -> Any:
        """What an order gives, what became of its arguments, None where nothing did, and which of them it is. The frame: see program.py."""
        self._numbers += 1
        try:
            data = encode((self._numbers, name, arguments, named), self._uncrossable, depth=_DEPTH_OF_ARGUMENTS)
        except RecursionError as error:
            raise OpaqueError("an argument is nested too deep") from error
        if self.fatal:
            raise StopError
        if self.in_doubt:
            self._handed_back((arguments, named), 3)
        try:
            self._channel.send(data)
        except wire.ClosedError:
            self._stop(None)
        kind, number, *rest = self._receive("returned", "raised", "too_large")
        if number != self._numbers:
            self._stop(_FORGED)
        if kind == "too_large":
            self._stop(("output_limit", "result"))
        self.answered += 1
        if kind == "raised":
            raise self._exception(*rest)
        return rest

    def verdict_of_arguments(self, error: TooLargeError) -> Verdict:
        """What it says that arguments are too large: they are so by themselves, or by what the program has answered before."""
        if self._received > MAX_BYTES // 2:
            return "output_limit", "result"
        return "harness_error", f"an argument is too large: {error}"

    def _uncrossable(self, value: Any) -> Token:
        raise OpaqueError(f"a {type(value).__name__} of the tests cannot be handed to the program")

    def _handed_back(self, value: Any, depth: int) -> None:
        """Forget the doubts about values that go back into the program."""
        if isinstance(value, Opaque):
            self.in_doubt.pop(value.number, None)
        elif isinstance(value, list | tuple | dict) and depth:
            for item in value.values() if isinstance(value, dict) else value:
                self._handed_back(item, depth - 1)

    def _opaque(self, token: Token) -> Opaque:
        opaque = Opaque(token, self._doubt, self.advance)
        self._doubt(opaque)
        return opaque

    def _doubt(self, opaque: Opaque) -> None:
        self.in_doubt[opaque.number] = opaque

    def finish(self) -> Verdict | None:
        """End the program and see how it ended. Returns why nothing may be believed of it, None where nothing was wrong."""
        self._channel.socket.close()
        how = self._status()
        self.output, self.errors, self.cpu, self.idle = how.output, how.errors, how.cpu, self.idle or how.idle
        if how.forbidden:
            self.fatal = ("forbidden", how.forbidden)
        elif how.overflow:
            self.fatal = ("output_limit", "")
        elif self.fatal == _SILENT and self._is_script and (how.signal, how.exit, how.timeout) == (0, 0, False):
            self.fatal = None  # os._exit(0): what counts is what it has written
        elif self.fatal == _SILENT or self.fatal is None:
            self.fatal = _ending(how) if self.fatal or how.timeout else None
        return self.fatal

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()

    def _status(self) -> Ended:
        """How the program ended. It usually ends by itself, now that nobody asks it any more; if not, it is told to."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(_PATIENCE):
            wire.send(self._control, None)
        how = wire.receive(self._control)
        if how == NOT_STARTED:
            raise NotStartedError("not started")
        if type(how) is not tuple or len(how) != len(Ended._fields):
            raise wire.ClosedError("the supervisor talks nonsense")
        return Ended._make(how)

    def _receive(self, *kinds: str) -> tuple[Any, ...]:
        """The program's next message, of one of these kinds, in the form that it has to have."""
        if self.fatal:
            raise StopError
        try:
            data = self._channel.receive()
            self._received += len(data)
            message = decode(data, self._opaque)
        except wire.ClosedError:
            self._stop(None)
        except MemoryError:  # also where the tests catch it: what was to be received next would be taken for something else
            self._stop(("memory", IN_THE_TESTS))
        except Exception:  # MalformedError, or whatever else a value brings about that `encode` does not write
            self._stop(_FORGED)
        if type(message) is not tuple or not message or message[0] not in (*kinds, "stopped") or not _has_form(message):
            self._stop(_FORGED)
        if message[0] == "stopped":
            self._stop(REASONS.get(message[1], _FORGED))
        return message

    def _stop(self, why: Verdict | None) -> Any:
        self.fatal = why or _SILENT  # the server knows how it ended
        raise StopError

    def stand_in(self, name: str) -> type[BaseException]:
        """The class that stands for an exception of the program here, with the bases that it has as far as they are known."""
        if name not in self._stand_ins:
            known: list[type[BaseException]] = []
            for base in self.exceptions[name]:
                ours = len(self.exceptions.get(base, ())) in range(1, len(self.exceptions[name]))  # fewer: so this comes to an end
                kind = self.stand_in(base) if ours else exception(base)
                if kind is not None and not any(issubclass(each, kind) for each in known):
                    known.append(kind)
            self._stand_ins[name] = _derived(name, known or [Exception])
        return self._stand_ins[name]

    def _exception(self, nearest: str, own: str, message: str, arguments: tuple[Any, ...]) -> BaseException:
        if not is_short(own, message, *arguments):
            self._stop(_FORGED)
        kind = self.stand_in(own) if own in self.exceptions else exception(nearest) or Exception
        error = _made(kind, arguments)
        if _text(error) != message:
            error = _made(type(kind.__name__, (kind,), {"__str__": lambda self: message}), arguments)
        self.raised = error, verdict_of(nearest, own, message)
        return error


def _text(error: BaseException) -> str | None:
    with contextlib.suppress(Exception):
        return str(error)
    return None


def _derived(name: str, bases: list[type[BaseException]]) -> type[BaseException]:
    """A class with these bases; with the first alone where they do not go together."""
    try:
        made = type("E", tuple(bases), {"__getattr__": _unknown})
    except TypeError:
        made = type("E", (bases[0],), {"__getattr__": _unknown})
    with contextlib.suppress(ValueError):  # not every text can be the name of a class
        made.__name__ = name[:LONGEST_NAME]
    return made


def _unknown(error: BaseException, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise OpaqueError(f"the attribute '{name}' of an exception of the program cannot leave it")


def _made(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """An exception with these arguments, whatever else its class wants."""
    for make in (kind, functools.partial(kind.__new__, kind)):
        with contextlib.suppress(Exception):
            return make(*arguments)
    return Exception(*arguments)


def verdict_of(nearest: str, own: str, message: str, loading: bool = False) -> Verdict:
    """What an exception of the program says about it.

    Args:
        nearest: the nearest built-in class.
        own: its own class.
        message: its text.
        loading: whether the program's top level raised it.
    """
    if nearest == "MemoryError":
        return "memory", ""
    if nearest in ("ImportError", "ModuleNotFoundError"):
        return "import_error", message
    if nearest in ("SyntaxError", "IndentationError", "TabError") and loading:
        return "syntax_error", message
    return "exception", own


def _has_form(message: tuple[Any, ...]) -> bool:
    parts, types = message[1:], _FORMS[message[0]]
    return len(parts) == len(types) and all(kind is object or type(part) is kind for part, kind in zip(parts, types, strict=True))


def _ending(how: Ended) -> Verdict:
    if how.timeout or how.signal == signal.SIGXCPU:
        return "timeout", ""
    if how.signal == signal.SIGXFSZ:
        return "output_limit", "file"
    if how.signal:
        named = how.signal in set(signal.Signals)  # those for real time have no name
        return "crashed", signal.Signals(how.signal).name if named else f"signal {how.signal}"
    return "crashed", f"exit {how.exit}"


def _update(mine: Any, theirs: Any) -> None:
    """Make my lists, dicts, sets and their like what they became at the program, keeping each object where the two still match."""
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        for one, other in zip(mine, theirs, strict=False):
            _update(one, other)
    elif type(mine) is not type(theirs):
        return
    elif isinstance(mine, dict):
        kept = {key: _merged(mine[key], value) if key in mine else value for key, value in theirs.items()}
        mine.clear()
        mine.update(kept)
    elif isinstance(mine, set):
        mine.clear()
        mine.update(theirs)
    elif isinstance(mine, list):
        mine[:] = [*map(_merged, mine, theirs), *theirs[len(mine) :]]
    elif isinstance(mine, bytearray):
        mine[:] = theirs
    elif isinstance(mine, collections.deque):
        kept_items = [*map(_merged, mine, theirs), *itertools.islice(theirs, len(mine), None)]
        mine.clear()
        mine.extend(kept_items)
    elif type(mine).__module__ == "numpy" and hasattr(mine, "shape") and mine.shape and mine.shape == theirs.shape:
        mine[...] = theirs


_KEPT = (dict, set, list, bytearray, collections.deque)
"""Types of arguments that stay the same objects here when a call changes them or gives them back."""


def _merged(mine: Any, theirs: Any) -> Any:
    if type(mine) is type(theirs) and isinstance(mine, _KEPT):
        _update(mine, theirs)
        return mine
    return theirs
