"""The tester's side of one program: start it, call its functions, see how it ended."""

from __future__ import annotations

import builtins
import select
import signal
import socket
from typing import Any

from . import wire
from .codec import MAX_BYTES, MalformedError, decode, encode
from .orders import NOT_STARTED, OUT_OF_MEMORY, Ended, Order, pack

Verdict = tuple[str, str]
"""Kind and detail, as ../results.py names them."""

_PATIENCE = 50  # milliseconds
_FORGED: Verdict = ("forbidden", "channel")
_FORMS: dict[str, tuple[type, ...]] = {
    "loaded": (list, list), "failed": (str, str, str), "ended": (), "returned": (int, object, object), "raised": (int, str, str, str),
    "too_large": (int, str),
}  # fmt: skip
"""What a program's process may say, and of which types the parts are."""


class StopError(BaseException):
    """The program can answer nothing more. Not an Exception, so that tests which catch those do not catch it."""


class NotStartedError(wire.ClosedError):
    """The server is gone, and no line of the program has run."""


class Candidate:
    """One program in its process.

    Attributes:
        functions, modules: names that the program defines, after `load`.
        fatal: why nothing more can be asked of it; None as long as it can.
        raised: the last exception that came out of the program, and its verdict.
        output: what it wrote, after `finish`.
        answered: calls that came back so far, with a value or an exception.
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
        self.fatal: Verdict | None = None
        self.raised: tuple[BaseException, Verdict] | None = None
        self.output = b""
        self.errors = b""
        self.answered = 0
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
        kind, *rest = self._receive("loaded", "failed")
        if kind == "failed":
            nearest, own, message = rest
            self._stop(verdict_of(nearest, own, message, loading=True))
        if not all(type(name) is str for names in rest for name in names):
            self._stop(_FORGED)
        self.functions, self.modules = frozenset(rest[0]), frozenset(rest[1])

    def ended(self) -> None:
        """Wait until a script has come to its end.

        Raises:
            StopError: it failed, or was ended.
        """
        kind, *rest = self._receive("ended", "failed")
        if kind == "failed":
            nearest, own, message = rest
            self._stop(verdict_of(nearest, own, message, loading=True))

    def call(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the program. What the call changes in its arguments is changed in them here too.

        Raises:
            StopError: no answer came, or one that makes no sense.
            Exception: the built-in exception nearest to what the program raised.
        """
        self._numbers += 1
        data = encode((self._numbers, name, arguments, named))
        if self.fatal:
            raise StopError
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
        result, changed = rest
        if changed is not None:
            if type(changed) is not tuple or [type(part) for part in changed] != [tuple, dict]:
                self._stop(_FORGED)
            _update(arguments, changed[0])
            _update(named, changed[1])
        return result

    def finish(self) -> Verdict | None:
        """End the program and see how it ended. Returns why nothing may be believed of it, None where nothing was wrong."""
        self._channel.socket.close()
        how = self._status()
        self.output, self.errors = how.output, how.errors
        if how.forbidden:
            self.fatal = ("forbidden", how.forbidden)
        elif how.overflow:
            self.fatal = ("output_limit", "")
        elif self.fatal == ("crashed", "") or self.fatal is None:
            self.fatal = _ending(how) if self.fatal or how.timeout else None
        return self.fatal

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
            message = decode(self._channel.receive())
        except wire.ClosedError:
            self._stop(None)
        except MalformedError:
            self._stop(_FORGED)
        if type(message) is not tuple or not message or message[0] not in kinds or not _has_form(message):
            self._stop(_FORGED)
        return message

    def _stop(self, why: Verdict | None) -> Any:
        self.fatal = why or ("crashed", "")  # the server knows how it ended
        raise StopError

    def _exception(self, nearest: str, own: str, message: str) -> BaseException:
        kind = getattr(builtins, nearest, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = Exception
        try:
            error = kind(message)
        except TypeError:  # UnicodeDecodeError and its like want more than a message
            error = Exception(message)
        self.raised = error, verdict_of(nearest, own, message)
        return error


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
        return "crashed", signal.Signals(how.signal).name
    if how.exit == OUT_OF_MEMORY:
        return "memory", ""
    return "crashed", f"exit {how.exit}"


def _update(mine: Any, theirs: Any) -> None:
    """Make my lists, dicts and sets what they became at the program, keeping each object where the two still match."""
    if type(mine) is dict and type(theirs) is dict:
        kept = {key: _merged(mine[key], value) if key in mine else value for key, value in theirs.items()}
        mine.clear()
        mine.update(kept)
    elif type(mine) is set and type(theirs) is set:
        mine.clear()
        mine.update(theirs)
    elif type(mine) is list and type(theirs) is list:
        mine[:] = [*map(_merged, mine, theirs), *theirs[len(mine) :]]
    elif type(mine) is tuple and type(theirs) is tuple:
        for one, other in zip(mine, theirs, strict=False):
            _update(one, other)


def _merged(mine: Any, theirs: Any) -> Any:
    if type(mine) is type(theirs) and type(mine) in (dict, set, list):
        _update(mine, theirs)
        return mine
    return theirs
