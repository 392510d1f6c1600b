"""The process of one program: forked off the server, confined for good, then it loads the program and answers what it is asked."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import struct
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from . import confinement, orders, standard, surroundings, wire
from .codec import MAX_DEPTH, MalformedError, Token, decode, encode
from .standard import TooLargeError
from .stopping import CHANNEL, stop

NAME = "program"
WORD = struct.Struct("=q")


def become(descriptors: list[int], home: int, started: int) -> None:
    """Turn the freshly forked process into the program's. Never returns.

    Args:
        descriptors: the order, which nobody has read yet (see orders.py), input, output, errors, channel to the tester.
        home: a descriptor that stays open, because the standard library is reached through it (see ../accounts.py).
        started: where this process says its id, once nothing is left to do but to run the program: one that ends without having said so
            has not been prepared, and no program can claim that.
    """
    said = WORD.pack(os.getpid())
    try:
        job = os.pread(descriptors[0], os.lseek(descriptors[0], 0, os.SEEK_END), 0)
        for target, source in enumerate(descriptors[1:]):
            os.dup2(source, target)
        order = orders.head(job)
        confinement.limit(order.seconds, order.memory, order.file, order.files)
        os.write(started, said)
        os.closerange(CHANNEL + 1, home)
        os.closerange(home + 1, 65536)
        channel = wire.Peer(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, CHANNEL), wire.MAX_FRAME)
        (_run_script if order.script else _answer_calls)(orders.source_of(job), channel)
    except MemoryError:
        stop("memory")
    except BaseException:
        os._exit(1)
    os._exit(0)


def rehearse() -> None:
    """Do once in the zygote what every program's process does, so that the interpreter has adapted its code before it is copied."""
    ours, theirs = socket.socketpair()
    peer = wire.Peer(theirs, wire.MAX_FRAME)
    for _ in range(64):
        job = orders.pack(orders.Order(1.0, 1, 1, 1, 1, 1, 1.0, False, -1), b"def f(x): return x")
        namespace = _load(orders.source_of(job), NAME)
        wire.send(ours, ("loaded", *_contents(namespace)))
        peer.receive()
        for value in (1, 1.5, "text", [1, 2], (1, "a"), {"a": 1}, True, None):
            wire.send_bytes(ours, _answer(encode((1, "f", (value,), {})), namespace, _Held()))
            peer.receive()
    ours.close()
    theirs.close()
    del sys.modules[NAME]


def _load(source: str, name: str) -> dict[str, Any]:
    """Run a program's text as a module."""
    module = surroundings.script_of(source, name)
    sys.modules[name] = module
    file = sys.argv[0] if surroundings.shows_source(source) else f"<{name}>"
    code = compile(source.removeprefix("\ufeff"), file, "exec", dont_inherit=True)  # this file's `from __future__` is none of the program's
    exec(code, module.__dict__)
    return module.__dict__


def _run_script(source: str, channel: wire.Peer) -> None:
    """Run a program that reads its input and writes its output; then say how it ended."""
    ended: tuple[Any, ...] = ("ended",)
    try:
        _load(source, "__main__")
    except SystemExit:  # with whatever status: what counts is what was written
        pass
    except BaseException as error:
        ended = ("failed", *_description(error))
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    if "open(" in source or "__del__" in source:  # files that it left open are written out, finalizers run
        with contextlib.suppress(KeyError):
            vars(sys.modules["__main__"]).clear()
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(BaseException):
            print(end="", file=stream, flush=True)
    try:
        channel.send(encode(ended))
    except wire.ClosedError:  # it has closed all descriptors: its status says as much
        os._exit(0 if ended == ("ended",) else 1)


def _answer_calls(source: str, channel: wire.Peer) -> None:
    """Load a program, say what it defines, and answer calls of its functions until the tester has enough."""
    try:
        namespace = _load(source, NAME)
    except BaseException as error:
        channel.send(encode(("failed", *_description(error))))
        return
    try:
        contents = encode(("loaded", *_contents(namespace)))
    except TooLargeError:
        contents = encode(("too_large", 0))
    channel.send(contents)
    held = _Held()
    while True:
        try:
            data = channel.receive()
        except wire.ClosedError:
            return
        channel.send(_answer(data, namespace, held))


def _contents(namespace: dict[str, Any]) -> tuple[list[str], list[str], list[str], list[list[str]]]:
    """The names of a program's functions and classes, of its modules, of its other values, and its exceptions with their bases."""
    functions: list[str] = []
    modules: list[str] = []
    values: list[str] = []
    exceptions: list[list[str]] = []
    for name, value in list(namespace.items()):
        if type(name) is not str or not name.isidentifier() or name.startswith("__"):
            continue  # no test can name it
        if issubclass(type(value), types.ModuleType):  # by its type: whatever a program makes of `__class__` and `__mro__`
            modules.append(name)
        elif issubclass(type(value), type) and issubclass(value, BaseException):
            exceptions.append([name, *map(_name, _mro(value)[1:])])
        else:
            (functions if callable(value) else values).append(name)
    return functions, modules, values, exceptions


_mro: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
_module_of: Callable[[type], Any] = vars(type)["__module__"].__get__
_name_of: Callable[[type], str] = vars(type)["__name__"].__get__
"""What a class really is called and derived from: its own class may say something else, or raise an exception."""


def _name(kind: type) -> str:
    return str.__getitem__(_name_of(kind), slice(orders.LONGEST_NAME))


class _Held:
    """Values of the program that the tester knows by number only."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._numbers: dict[int, int] = {}  # by id: what is held stays alive

    def token(self, value: Any) -> Token:
        """The token of a value, the same each time."""
        number = self._numbers.setdefault(id(value), len(self._values))
        if number == len(self._values):
            self._values.append(value)
        try:
            truth = bool(value)
        except Exception:
            truth = True
        return Token(number, truth, _name(type(value)))

    def value(self, token: Token) -> Any:
        """The value behind a token."""
        return self._values[token.number]


def _answer(data: bytes, namespace: dict[str, Any], held: _Held) -> bytes:
    """Make the call that a frame asks for, and put what came of it into bytes.

    A frame is (number, function, arguments, named arguments); without arguments, a value's name; without a name, an iterator.
    """
    number, name, given, named = decode(data, held.value, 2 * MAX_DEPTH)
    hold = held.token
    try:
        if given is None:
            value = namespace[name] if type(name) is str else next(name)
            return encode(("returned", number, value, None, None), hold)
        result = _find(name, namespace)(*given, **named)
        place = next((place for place, value in enumerate(given) if value is result and type(value) not in _FIXED), None)
        unchanged = not named and all(type(value) in _FIXED for value in given)
        unchanged = unchanged or encode((number, name, given, named), hold, depth=2 * MAX_DEPTH) == data
        return encode(("returned", number, result, None if unchanged else (given, named), place), hold)
    except (TooLargeError, MalformedError):
        return encode(("too_large", number))
    except BaseException as error:
        return encode(("raised", number, *_description(error)))


_FIXED = frozenset((int, str, float, bool, type(None), bytes, complex))  # nothing that a call could change


def _find(name: str, namespace: dict[str, Any]) -> Callable[..., Any]:
    """A function by name; "Class().method" makes an instance first."""
    owner, dot, method = name.partition("().")
    if owner not in namespace:
        raise NameError(f"name '{owner}' is not defined")
    return getattr(namespace[owner](), method) if dot else namespace[owner]


def _description(error: BaseException) -> tuple[str, str, str, tuple[Any, ...]]:
    """An exception as (nearest class that `standard.exception` knows, its own class, message, arguments if they are plain and short).

    What its frames hold is let go: saying so takes memory.
    """
    BaseException.with_traceback(error, None)
    nearest = next(name for kind in _mro(type(error)) if standard.exception(name := _qualified(kind)) is kind)
    try:
        message = str.__getitem__(str(error), slice(orders.LONGEST))
    except BaseException:
        message = ""
    name = _name(type(error))
    arguments = vars(BaseException)["args"].__get__(error)  # whatever a subclass calls so
    return nearest, name, message, arguments if orders.is_short(name, message, *arguments) else (message,)


def _qualified(kind: type) -> str:
    """A class as `standard.exception` names it."""
    module = _module_of(kind)
    return _name(kind) if module == "builtins" else f"{module}.{_name(kind)}" if type(module) is str else ""
