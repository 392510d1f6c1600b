"""What the stages of one process share (see `Stage.resources`): opened by the first that wants it, left open for the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

Shared = TypeVar("Shared")


@dataclass
class _Process:
    """What this process holds: whether its stages share at all, and what stands open, with what it was opened for."""

    shares: bool = False
    in_use: bool = False
    wanted: Any = None
    opened: Any = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_PROCESS = _Process()


@contextlib.contextmanager
def shared(wanted: Any, opening: Callable[[], AbstractContextManager[Shared]]) -> Iterator[Shared]:
    """What `opening` gives, as a context; where stages share, it stays open until something else is wanted.

    One at a time: what is open is closed where something else is wanted, so such contexts do not nest.

    Args:
        wanted: what it is opened for; equal for what can be shared.
        opening: opens it.
    """
    if not _PROCESS.shares:
        with opening() as opened:
            yield opened
        return
    assert not _PROCESS.in_use, "what stages share is opened within a context that uses something shared"
    if _PROCESS.wanted != wanted:
        _close()
        _PROCESS.opened = _PROCESS.stack.enter_context(opening())
        _PROCESS.wanted = wanted
    _PROCESS.in_use = True
    try:
        yield _PROCESS.opened
    finally:
        _PROCESS.in_use = False


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """A context in which stages share; closes at its end what they left open."""
    _PROCESS.shares = True
    try:
        yield
    finally:
        _PROCESS.shares = False
        _close()


def _close() -> None:
    _PROCESS.wanted = _PROCESS.opened = None
    _PROCESS.stack.close()
