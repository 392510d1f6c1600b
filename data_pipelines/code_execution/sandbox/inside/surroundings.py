"""What a program finds around it that Python gives to every script, and that an interpreter without `site`, /proc and /dev lacks.

What costs something, or can be seen, is there only for programs whose text asks for it.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import contextlib
import errno
import io
import os
import resource
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from . import processes

_STREAMS = {
    f"{folder}/{name}": number
    for number, stream in enumerate(("stdin", "stdout", "stderr"))
    for folder, name in (("/dev", stream), ("/dev/fd", number), ("/proc/self/fd", number))
}
_LARGEST_STACKS = 4  # threads with stacks as large as their program likes that fit into its memory


def prepare(keeps_files: bool) -> None:
    """Do once, in the process that programs are forked from, what holds for all of them.

    Args:
        keeps_files: see filters.py.
    """
    _make_streams()
    if not keeps_files:
        os.truncate = _truncate
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    builtins.help = _sitebuiltins._Helper()
    sys.set_int_max_str_digits(0)  # a program's time bounds what long integers cost
    sys.modules.update(processes.modules())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = [os.path.join(os.getcwd(), "program.py")]
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (most, most))  # deep recursion through C may fill all memory that a program has


def _make_streams() -> None:
    """Make standard output and errors anew while they are pipes, as they will be: a stream notes once whether it can be rewound."""
    pipe = os.pipe()
    for number, name in ((1, "stdout"), (2, "stderr")):
        old, kept = getattr(sys, name), os.dup(number)
        os.dup2(pipe[1], number)
        raw = io.FileIO(number, "w", closefd=False)
        raw.name = old.name
        stream = io.TextIOWrapper(io.BufferedWriter(raw), old.encoding, old.errors, line_buffering=old.line_buffering)
        stream.mode = "w"  # type: ignore[misc]
        os.dup2(kept, number)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        os.close(kept)
    for descriptor in pipe:
        os.close(descriptor)


def _truncate(path: Any, length: int) -> None:
    """`os.truncate` where the system's call is forbidden: to open a file to write is allowed to those who may change it."""
    descriptor = path if isinstance(path, int) else os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, length)
    finally:
        if descriptor is not path:
            os.close(descriptor)


def script_of(source: str, name: str) -> types.ModuleType:
    """The module that a program's text becomes, with what its text asks for.

    Args:
        source: the program.
        name: of the module.
    """
    module = types.ModuleType(name)
    module.__file__ = sys.argv[0]
    if "__file__" in source or shows_source(source):
        with contextlib.suppress(OSError, ValueError), open(sys.argv[0], "w", encoding="utf-8") as file:
            file.write(source)
    if "/dev/" in source or "/proc/" in source:
        _open_streams_by_path()
    if "stack_size" in source:
        _bound_stacks()
    if "RLIMIT_STACK" in source:
        _let_stack_be_set()
    if "shutil" in source:
        _let_files_be_copied()
    return module


def shows_source(source: str) -> bool:
    """Whether a program looks at its own text through `inspect`, which reads the file that code names as its own."""
    return "getsource" in source


def _open_streams_by_path() -> None:
    """Let /dev/stdin and its like be opened where there is no such file: they are descriptors of the process itself."""
    opens, system_opens = io.open, os.open

    def open_(file: Any, *arguments: Any, **named: Any) -> Any:
        number = _STREAMS.get(os.fspath(file)) if isinstance(file, str | os.PathLike) else None
        return opens(file if number is None else os.dup(number), *arguments, **named)

    def open_descriptor(path: Any, *arguments: Any, **named: Any) -> int:
        number = _STREAMS.get(path) if isinstance(path, str) else None
        return system_opens(path, *arguments, **named) if number is None else os.dup(number)

    builtins.open = io.open = open_
    os.open = open_descriptor


def _bound_stacks() -> None:
    """Let a thread ask for any stack: what it asks for is address space, which the memory limit counts though nothing lies there."""
    sets: Callable[..., int] = threading.stack_size
    most = resource.getrlimit(resource.RLIMIT_AS)[0] // _LARGEST_STACKS

    def stack_size(size: int = 0, /) -> int:
        return sets(size if most <= 0 else min(size, most & ~0xFFFF))

    threading.stack_size = stack_size


def _let_stack_be_set() -> None:
    """Let the stack's limit be set to anything: it is as high as it can be."""
    sets = resource.setrlimit

    def setrlimit(what: int, limits: tuple[int, int], /) -> None:
        if what != resource.RLIMIT_STACK:
            sets(what, limits)

    resource.setrlimit = setrlimit


def _let_files_be_copied() -> None:
    """Let files be copied where the filter does not let their modes and times be set: a copy then has those of a new file."""
    import shutil

    def forgiving(copies: Callable[..., None]) -> Callable[..., None]:
        def copy(*arguments: Any, **named: Any) -> None:
            try:
                copies(*arguments, **named)
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise

        return copy

    shutil.copymode, shutil.copystat = forgiving(shutil.copymode), forgiving(shutil.copystat)
