"""A benchmark's own test code, split into its assertions so that each is a test of its own. The assertions stay as they are written."""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

UNIT = "__assertion__"


@functools.lru_cache(maxsize=256)
def prepare(code: str) -> tuple[CodeType, list[int], frozenset[str]]:
    """Compile test code with each assertion guarded.

    An assertion, and a `try` with assertions in it, becomes `with __assertion__(i): …`, wherever it stands; what surrounds it runs as ever.

    Args:
        code: Python.

    Returns:
        The code, the line of each guarded statement, and all names that the code reads.

    Raises:
        SyntaxError: it does not parse.
    """
    lines: list[int] = []
    tree = parse(code)
    tree.body = _guarded(tree.body, lines)
    compiled = compile(tree, "<tests>", "exec")
    return compiled, lines, frozenset(_names(compiled))


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def definitions(code: str, without: Sequence[str]) -> str:
    """The functions, classes and imports that code defines at its top level, but for those named `without`."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    kept: list[ast.stmt] = [node for node in parse(code).body if isinstance(node, kinds) and getattr(node, "name", None) not in without]
    return ast.unparse(ast.Module(kept, []))
