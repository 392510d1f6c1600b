"""How far a program can be kept from the host on this machine, and the command that starts a process there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from align.errors import AlignError, nearest
from data_pipelines.code_execution.sandbox import accounts
from data_pipelines.code_execution.sandbox.accounts import Account
from data_pipelines.code_execution.sandbox.inside.landlock import NEWEST
from data_pipelines.code_execution.sandbox.results import Level

Requirement = Literal["require-strong", "best-available", "limits-only"]
Role = Literal["tester", "candidate"]
Mechanism = Literal["bubblewrap", "unshare", "filters", "limits"]
LEVELS: dict[Mechanism, Level] = {"bubblewrap": "namespaces", "unshare": "namespaces", "filters": "filters", "limits": "limits"}
"""How a process is kept in, strongest first, and the level that this is."""

_LANDLOCK = {"namespaces": "wanted", "filters": "required", "limits": "off"}
SCRATCH, SEEN = "/box", "/sandbox"  # where a program may write and where its server's code lies, in namespaces
CODE = Path(__file__).parent
_INSIDE = CODE / "inside"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_START = "import sys; sys.path.insert(0, {!r}); from inside.start import main; main()"
SCRATCH_BYTES = 64 << 20
MORE_PROCESSES = 64  # that the processes inside may start together, where no filter keeps programs from forking
TESTER_LIMITS = {"memory": 4 << 30, "seconds": 10**8, "file": 0, "files": 64}


@dataclass(frozen=True)
class Isolation:
    """How processes are started.

    Attributes:
        mechanism: what keeps them in.
        python: the interpreter.
        packages: folders of packages that programs may import besides the standard library.
        imports: modules to have ready.
        newest_landlock: the version of Landlock to use at most, so that what older kernels lack can be tested.
    """

    mechanism: Mechanism
    python: str = ""
    packages: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    newest_landlock: int = NEWEST

    @property
    def level(self) -> Level:
        """What this mechanism amounts to."""
        return LEVELS[self.mechanism]

    def readable(self) -> list[str]:
        """What a process sees of the host: the interpreter with its libraries, and four devices."""
        prefix = Path(os.path.realpath(self.python)).parent.parent
        found = [*_LIBRARIES, *_DEVICES, os.path.realpath(self.python), str(prefix / "lib"), *self.packages]
        return [path for path in dict.fromkeys(found) if os.path.exists(path)]

    def command(self, role: Role, sockets: dict[str, int], scratch: str, account: Account | None, core: int) -> list[str]:
        """The command line of a process.

        Args:
            role: what it is to be.
            sockets: descriptors by name that it inherits.
            scratch: a folder of the host that it may write to, where it has no file system of its own.
            account: the user id that it is given, where it is given one.
            core: the one that it runs on: a call from one process to the other takes half as long on the same core.
        """
        strong = self.level == "namespaces"
        config: dict[str, Any] = {
            **sockets, "role": role, "unshare": self.mechanism == "unshare", "landlock": _LANDLOCK[self.level],
            "filter": self.level != "limits",
            "scratch": SCRATCH if strong else scratch, "bytes": SCRATCH_BYTES, "program": str(_INSIDE), "seen": f"{SEEN}/inside",
            "packages": list(self.packages), "imports": list(self.imports), "limits": TESTER_LIMITS, "home": 65535, "core": core,
            "processes": None if self.level != "limits" else accounts.processes_now(account) + MORE_PROCESSES,
            "pool": os.getpid(), "lifeline": self._lifeline(role), "own_user": account is not None,
            "newest_landlock": self.newest_landlock,
        }  # fmt: skip
        place = SEEN if self.mechanism == "bubblewrap" else account.code if account else str(CODE)
        config["readable"] = self.readable() + ([] if self.mechanism == "unshare" else [f"{place}/inside"])
        if account:
            config["readable"].append(f"{account.home}/lib")
            config["home"] = int(Path(account.home).name)
        python = [os.path.realpath(self.python), "-S", "-s", "-P", "-B", "-c", _START.format(place), json.dumps(config)]
        return [*self._bubblewrap(), *python] if self.mechanism == "bubblewrap" else python

    def _lifeline(self, role: Role) -> str:
        """What ends a process with the pool's: bubblewrap, the kernel, or a keeper, who also ends what programs have started."""
        if self.mechanism == "bubblewrap":
            return "bubblewrap"
        return "keeper" if self.level == "limits" and role == "candidate" else "kernel"

    def _bubblewrap(self) -> list[str]:
        command = ["bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]
        command += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
        for path in self.readable():
            if os.path.islink(path):
                command += ["--symlink", os.readlink(path), path]
            else:
                command += ["--dev-bind" if path in _DEVICES else "--ro-bind", path, path]
        command += ["--ro-bind", str(_INSIDE), f"{SEEN}/inside"]
        return [*command, "--size", str(SCRATCH_BYTES), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH]


def environment(hash_seed: int, account: Account | None) -> dict[str, str]:
    """All that a process inherits of an environment."""
    home = {"PYTHONHOME": account.home, "LD_LIBRARY_PATH": f"{account.home}/lib"} if account else {}
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")  # each costs a thread address space otherwise
    return home | {"PYTHONHASHSEED": str(hash_seed), "PYTHONUTF8": "1"} | one


def candidates(requirement: Requirement) -> list[Mechanism]:
    """The mechanisms that meet a requirement, strongest first.

    Raises:
        AlignError: there is no such requirement.
    """
    if requirement not in get_args(Requirement):
        raise AlignError(f"isolation is '{requirement}': {nearest(requirement, get_args(Requirement))}")
    if requirement == "limits-only":
        return ["limits"]
    found: list[Mechanism] = ["bubblewrap", "unshare"]
    return found if requirement == "require-strong" else [*found, "filters", "limits"]


def missing_tool(mechanism: Mechanism) -> str | None:
    """Why a mechanism needs not be tried; None where it does."""
    if sys.platform != "linux":
        return "only Linux has it"
    return "not installed" if mechanism == "bubblewrap" and shutil.which("bwrap") is None else None


def find_python(python: str | None) -> str:
    """The interpreter that runs programs.

    Raises:
        AlignError: there is none at that path.
    """
    chosen = str(python or getattr(sys, "_base_executable", sys.executable))
    found = shutil.which(chosen)
    if found is None:
        raise AlignError(f"there is no Python interpreter at '{chosen}', which is to run the programs")
    return found


def folders_of(packages: Sequence[str]) -> tuple[str, ...]:
    """Folders with only these packages in them cannot be had; so: the folder that each is installed in.

    Raises:
        AlignError: a package is not installed.
    """
    import importlib.util

    found = []
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise AlignError(f"programs are to import '{name}', which is not installed here")
        found.append(str(Path(spec.origin).parent.parent if spec.submodule_search_locations else Path(spec.origin).parent))
    return tuple(dict.fromkeys(found))
