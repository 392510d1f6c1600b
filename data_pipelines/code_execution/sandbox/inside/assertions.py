"""A benchmark's own test code, split into its assertions so that each is a test of its own. The assertions stay as they are written."""

from __future__ import annotations

import ast
import functools
import json
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

UNIT = "__assertion__"


@functools.lru_cache(maxsize=256)
def prepare(code: str) -> tuple[CodeType, list[int], frozenset[str], str]:
    """Compile test code with each assertion guarded.

    An assertion, and a `try` with assertions in it, becomes `with __assertion__(i): …`, wherever it stands; what surrounds it runs as ever.

    Args:
        code: Python.

    Returns:
        The code, the line of each guarded statement, all names that the code reads, and what it does to its own process that a program
        in the same process would see, "" where there is nothing.

    Raises:
        SyntaxError: it does not parse.
    """
    lines: list[int] = []
    with _LONG_INTEGERS:
        tree = parse(code)
        changed = _changed_attribute(tree)
        tree.body = _guarded(tree.body, lines)
        compiled = compile(tree, "<tests>", "exec", dont_inherit=True, optimize=0)  # with its assertions, also under `python -O`
    names = frozenset(_names(compiled))
    return compiled, lines, names, changed or next(iter(sorted(names & _REACHING)), "")


_REACHING = frozenset(("capsys", "chdir", "monkeypatch", "patch", "redirect_stderr", "redirect_stdout", "setattr", "setrecursionlimit"))
"""Names by which tests change what a program in the same process would see."""


def _changed_attribute(tree: ast.Module) -> str:
    """An attribute of a module, such as sys.stdin, that statements assign to; "" where none does."""
    statements = list(_statements(tree.body))
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}
    for node in statements:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in modules:
                return f"{target.value.id}.{target.attr}"
    return ""


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements and those below them. Expressions are passed over, since test code can be long."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(inner := getattr(node, part, None), list):
                yield from _statements(inner)
        for handler in getattr(node, "handlers", ()):
            yield from _statements(handler.body)


def _guarded(body: list[ast.stmt], lines: list[int]) -> list[ast.stmt]:
    """The statements, with the assertions among and below them guarded. Only statements are looked at, since test code can be long."""
    found = []
    for node in body:
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Try) and any(isinstance(inner, ast.Assert) for inner in ast.walk(node))):
            place: dict[str, Any] = {"lineno": node.lineno, "col_offset": 0, "end_lineno": node.lineno, "end_col_offset": 0}
            mark = ast.Call(ast.Name(UNIT, ast.Load(), **place), [ast.Constant(len(lines), **place)], [], **place)
            lines.append(node.lineno)
            node = ast.With([ast.withitem(mark)], [node], **place)
        else:
            for part in ("body", "orelse"):
                if isinstance(inner := getattr(node, part, None), list):
                    setattr(node, part, _guarded(inner, lines))
        found.append(node)
    return found


def _names(code: CodeType) -> Iterator[str]:
    """All names that code and what it defines refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def parse(code: str) -> ast.Module:
    """Parse code without a word about its escape sequences: nobody here has written it.

    Raises:
        SyntaxError, ValueError: it does not parse.
    """
    with warnings.catch_warnings(), _LONG_INTEGERS:
        warnings.simplefilter("ignore")
        return ast.parse(code.removeprefix("\ufeff"))


class _LongIntegers:
    """While entered, integers of any length are read: benchmarks hold some that Python refuses otherwise. Any number of threads may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._usual = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._usual = sys.get_int_max_str_digits()
                sys.set_int_max_str_digits(0)
            self._inside += 1

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.set_int_max_str_digits(self._usual)


_LONG_INTEGERS = _LongIntegers()


def read_json(text: str | bytes) -> Any:
    """JSON with integers of any length.

    Raises:
        ValueError: it is no JSON.
    """
    with _LONG_INTEGERS:
        return json.loads(text)


def definitions(code: str, without: Sequence[str]) -> str:
    """The functions, classes and imports that code defines at its top level, but for those named `without`."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    kept: list[ast.stmt] = [node for node in parse(code).body if isinstance(node, kinds) and getattr(node, "name", None) not in without]
    return ast.unparse(ast.Module(kept, []))
