"""A program with what it needs, as bytes.

The supervisor puts the bytes into a file in memory that the program's own process reads. The zygote hands its descriptor on and never
reads it: what the zygote has once held stays in the memory of every program that is forked off it later, also after it was freed.
"""

from __future__ import annotations

import struct
from typing import Any, Literal, NamedTuple

Mode = Literal["calls", "script"]
_HEAD = struct.Struct("=dqqqiid?q")


class Order(NamedTuple):
    """A program to be run once.

    Attributes:
        seconds, memory, output, file, files, threads: see ../results.py; seconds are of CPU time.
        asleep: seconds of wall clock after which the program is ended if it has hardly used the CPU.
        script: run as a whole program, not to answer calls.
        stdin: what it reads, -1: nothing; else the number of bytes.
    """

    seconds: float
    memory: int
    output: int
    file: int
    files: int
    threads: int
    asleep: float
    script: bool
    stdin: int


def wall_seconds(cpu_seconds: float) -> float:
    """How long a program may be there that does not get the CPU, or uses little of it."""
    return 10.0 * cpu_seconds


def pack(order: Order, source: bytes, text: bytes = b"") -> bytes:
    """An order, its program and its input."""
    return _HEAD.pack(*order) + source + text


def head(data: bytes) -> Order:
    """The order."""
    return Order._make(_HEAD.unpack_from(data))


def text_of(data: bytes, order: Order) -> bytes | None:
    """What the program reads from its standard input."""
    return None if order.stdin < 0 else data[len(data) - order.stdin :]


def without_text(data: bytes, order: Order) -> memoryview:
    """The order and its program: what the program's process reads before it runs."""
    return memoryview(data)[: len(data) - max(0, order.stdin)]


def source_of(data: bytes) -> str:
    """The program, of what `without_text` gives."""
    return data[_HEAD.size :].decode("utf-8", "surrogatepass")


LONGEST = 500  # characters of an exception's message, and of each of its arguments that is text
LONGEST_NAME = 200  # characters of the name of a program's exception
MOST_ARGUMENTS = 10  # of an exception
_MOST_BITS = 4 * LONGEST  # of an argument that is an integer: it has no more digits than a text may have
_PLAIN = frozenset((int, str, float, bool, type(None), bytes, complex))


def is_short(name: str, message: str, *arguments: Any) -> bool:
    """Whether an exception may be told of as it is: short texts, few arguments, each plain."""
    return (
        len(name) <= LONGEST_NAME
        and len(message) <= LONGEST
        and len(arguments) <= MOST_ARGUMENTS
        and all(type(part) in _PLAIN and _is_short(part) for part in arguments)
    )


def _is_short(part: Any) -> bool:
    return len(part) <= LONGEST if isinstance(part, str | bytes) else not isinstance(part, int) or part.bit_length() <= _MOST_BITS


NOT_STARTED = ()
"""Said instead of how a program ended, where none was begun."""


class Ended(NamedTuple):
    """How a program ended.

    Attributes:
        forbidden: the system call that ended it, "" where none did.
        timeout: whether its time was over.
        overflow: whether it wrote too much.
        signal: that killed it, 0 where none did.
        exit: its status.
        cpu: seconds of CPU time that it took.
        idle: whether its time was over before it had used it up, though it did not sleep: others kept the CPU from it, perhaps.
        output, errors: what it wrote.
    """

    forbidden: str
    timeout: bool
    overflow: bool
    signal: int
    exit: int
    cpu: float
    idle: bool
    output: bytes
    errors: bytes
