"""A benchmark's own test code, split into its assertions so that each is a test of its own. The assertions stay as they are written."""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from types import CodeType

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
    tree = ast.parse(code)
    splitter = _Splitter()
    tree = ast.fix_missing_locations(splitter.visit(tree))
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return compile(tree, "<tests>", "exec"), splitter.lines, names


class _Splitter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.lines: list[int] = []

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return self._guarded(node)

    def visit_Try(self, node: ast.Try) -> ast.AST:
        return self._guarded(node) if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)) else node

    def _guarded(self, node: ast.stmt) -> ast.AST:
        self.lines.append(node.lineno)
        mark = ast.Call(ast.Name(UNIT, ast.Load()), [ast.Constant(len(self.lines) - 1)], [])
        return ast.copy_location(ast.With([ast.withitem(mark)], [node]), node)


def definitions(code: str, without: Sequence[str]) -> str:
    """The functions, classes and imports that code defines at its top level, but for those named `without`."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    kept = [node for node in ast.parse(code).body if isinstance(node, kinds) and getattr(node, "name", None) not in without]
    return ast.unparse(ast.Module(kept, []))
