"""A program with what it needs, kept as bytes so that the forked child does not copy pages by parsing them."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

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
    """An order, its input and its program."""
    return _HEAD.pack(*order) + text + source


def head(data: bytes) -> Order:
    """The order."""
    return Order._make(_HEAD.unpack_from(data))


def text_of(data: bytes, order: Order) -> bytes | None:
    """What the program reads from its standard input."""
    return None if order.stdin < 0 else data[_HEAD.size : _HEAD.size + order.stdin]


def source_of(data: bytes, order: Order) -> str:
    """The program."""
    return data[_HEAD.size + max(0, order.stdin) :].decode("utf-8", "surrogatepass")


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
