"""Where root starts processes without namespaces, each gets a user id that nobody else has: it can signal, trace and read nobody.

The interpreter may lie where only root gets to (/root/.pyenv): it is reached through descriptors that are opened before the id is given up.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_numbers = itertools.count()
_HIGHEST = 0x70000000
_FIRST = 20


def needed(level: str) -> bool:
    """Whether processes are to be given a user id of their own."""
    return level != "namespaces" and os.geteuid() == 0


def lone_user() -> int:
    """A user id of this machine, or of the container that this is, that nobody else has."""
    with open("/proc/self/uid_map") as ranges:
        first, _, count = (int(word) for word in ranges.read().splitlines()[-1].split())
    last = min(first + count - 2, _HIGHEST)
    return last - (os.getpid() * 64 + next(_numbers)) % 50_000 % max(1, last - 1000)


@dataclass
class Account:
    """What a process needs to be started under a user id of its own.

    Attributes:
        user: the id.
        python: how the interpreter is reached.
        home: how its standard library is reached.
        code: how the sandbox's own code is reached.
        descriptors: to be inherited.
    """

    user: int
    python: str
    home: str
    code: str
    descriptors: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, python: str, code: Path) -> Account:
        """Open the way to the interpreter and to a folder of code."""
        real = Path(os.path.realpath(python))
        handles = [_high(os.open(path, os.O_RDONLY)) for path in (real, real.parent.parent, code)]
        return cls(lone_user(), *(f"/proc/self/fd/{handle}" for handle in handles), descriptors=handles)

    def options(self) -> dict[str, Any]:
        """For subprocess.Popen."""
        return {"user": self.user, "group": self.user, "extra_groups": [], "executable": self.python}

    def close(self) -> None:
        """Close this side's descriptors, once the process is started."""
        for handle in self.descriptors:
            os.close(handle)


def _high(handle: int) -> int:
    """The same descriptor under a number that no process inside uses for something else."""
    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    os.close(handle)
    return moved
