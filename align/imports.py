"""Importing: this project's packages from where this process has them, and torch without a search for garbage."""

from __future__ import annotations

import contextlib
import gc
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that `align`, `data_pipelines` and `eval` are imported from: a checkout, or the environment's site-packages."""


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause the garbage collector while torch and its libraries are imported: they make a million objects, none of which is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def put_ours_first() -> None:
    """Look for modules in the working folder last, so that a folder `align/` or a file `eval.py` there takes the place of nothing.

    Python puts the working folder first where it is started by `-m`. Parts of the user's own, `module:function`, are found there still.
    """
    here = _working_folder()
    if here is None or here == ROOT:
        return
    rest = [entry for entry in sys.path if not _is_here(entry, here)]
    first = [] if _on(rest) else [str(ROOT)]  # an editable install has a finder instead, which comes after every folder
    sys.path[:] = [*first, *rest, str(here)]


def importing_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a Python process, with which it and those it starts import this project's packages as this process does.

    Args:
        environment: all variables of the process.

    Returns:
        The same, except that Python does not put the working folder first, and PYTHONPATH names the checkout where there is one.
    """
    here = _working_folder()
    given = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry and not (here and _is_here(entry, here))]
    paths = given if is_installed() else [str(ROOT), *(entry for entry in given if Path(entry).resolve() != ROOT)]
    kept = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return {**kept, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def is_installed() -> bool:
    """Whether this project's packages lie among those of the environment, where every interpreter of it finds them."""
    return ROOT in {Path(path).resolve() for path in _environment_folders()}


def _environment_folders() -> list[str]:
    return [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages()]


def _working_folder() -> Path | None:
    try:
        return Path.cwd().resolve()
    except OSError:  # it was deleted
        return None


def _is_here(entry: str, here: Path) -> bool:
    return entry in ("", ".") or Path(entry).resolve() == here


def _on(entries: list[str]) -> bool:
    return any(Path(entry or ".").resolve() == ROOT for entry in entries)
