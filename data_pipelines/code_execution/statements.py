"""The top-level statements of a program: which names each binds and reads, and which of them a function needs."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from data_pipelines.code_execution.syntax import parsed

_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}
_BY_TEXT = frozenset({"eval", "exec", "globals", "locals", "vars", "__import__"})  # what reaches names that nobody can read off
_SETTING = frozenset({"seed", "filterwarnings", "simplefilter", "stack_size"})
_IN_PLACE = frozenset({"heapify", "heappop", "heappush", "insort", "insort_left", "insort_right", "shuffle"})
_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop, ast.expr_context)


@dataclass(frozen=True)
class Statement:
    """A statement at the top level, or several that share a line.

    Attributes:
        text: its lines, with the comments in front.
        nodes: as parsed.
        binds: names that it gives a value.
        changes: names whose value it changes: `memo[0] = 1`, `table.append(2)`, `heapify(table)`.
        calls: functions that it calls for what they do, not for a value: `fill()`, `@register`.
        effects: names of the module whose value its functions change when they are called.
        reads: names of the module that it reads, in functions and classes too.
        reads_at_once: those of them that it reads when it is run, not when its functions are called.
    """

    text: str
    nodes: tuple[ast.stmt, ...]
    binds: frozenset[str]
    changes: frozenset[str]
    calls: frozenset[str]
    effects: frozenset[str]
    reads: frozenset[str]
    reads_at_once: frozenset[str]

    @property
    def is_import(self) -> bool:
        """Whether it does nothing but import."""
        return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in self.nodes)

    @property
    def is_foreign_import(self) -> bool:
        """Whether it imports something beyond the standard library."""
        return self.is_import and not all(module in sys.stdlib_module_names for node in self.nodes for module in _modules(node))

    @property
    def is_star_import(self) -> bool:
        """Whether it imports all names of a module."""
        return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in self.nodes)

    @property
    def is_stub(self) -> bool:
        """Whether it is a function or a class without a body: `...`, `pass`, a docstring, `raise NotImplementedError`."""
        return all(_is_stub(node) for node in self.nodes)

    @property
    def is_harmless(self) -> bool:
        """Whether running it does nothing but define."""
        return not self.is_foreign_import and all(_is_harmless(node) for node in self.nodes)


def statements(code: str) -> list[Statement]:
    """The statements of a program, in order; none where it does not compile."""
    tree = parsed(code).tree
    if tree is None:
        return []
    groups: list[tuple[list[ast.stmt], int]] = []  # statements that share a line, and their last line
    for node in tree.body:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        if groups and first <= groups[-1][1]:
            groups[-1] = ([*groups[-1][0], node], max(groups[-1][1], node.end_lineno or 0))
        else:
            groups.append(([node], node.end_lineno or first))
    lines, start, found = code.split("\n"), 0, []
    for nodes, end in groups:
        found.append(_statement("\n".join(lines[start:end]), tuple(nodes)))
        start = end
    return found


def _statement(text: str, nodes: tuple[ast.stmt, ...]) -> Statement:
    try:
        table = symtable.symtable(text, "<statement>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return Statement(text, nodes, *[frozenset[str]()] * 6)
    binds = {name.get_name() for name in table.get_symbols() if name.is_assigned() or name.is_imported()}
    changes, calls = (frozenset(name for node in nodes for name in names_of(node)) for names_of in (_changed, _called))
    reads, at_once = frozenset(_reads(table, True)), frozenset(_reads(table, False))
    inside = [part for node in nodes if isinstance(node, _FUNCTIONS) for part in node.body]
    effects = reads & frozenset(name for part in inside for name in (*_changed(part), *_globals(part)))
    return Statement(text, nodes, frozenset(binds), changes, calls, effects, reads, at_once)


def _reads(table: symtable.SymbolTable, inside_functions: bool) -> Iterator[str]:
    """Names of the module that a scope and those below it read."""
    module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if (symbol.is_referenced() and (module or symbol.is_global())) or (symbol.is_declared_global() and not module):
            yield symbol.get_name()
    for child in table.get_children():
        if inside_functions or child.get_type() == "class" or child.get_name() in _COMPREHENSIONS:
            yield from _reads(child, inside_functions)


def _changed(node: ast.AST) -> Iterator[str]:
    """Names whose values a statement changes, functions and classes in it aside."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return
    target: ast.expr | None = None
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        target = node.value
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if call.args and _last_name(call.func) in _IN_PLACE:
            target = call.args[0]
        elif isinstance(call.func, ast.Attribute):
            target = call.func.value
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        target = target.value
    if isinstance(target, ast.Name):
        yield target.id
    for child in ast.iter_child_nodes(node):
        yield from _changed(child)


def _last_name(called: ast.expr) -> str:
    """The name of a function without that of its module or object."""
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _called(node: ast.AST) -> Iterator[str]:
    """Names of functions that a statement calls for what they do: calls whose value nobody takes, and decorators."""
    called = [node.value] if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else getattr(node, "decorator_list", [])
    for function in (part.func if isinstance(part, ast.Call) else part for part in called):
        if isinstance(function, ast.Name):
            yield function.id
    if not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _called(child)


def _globals(node: ast.AST) -> Iterator[str]:
    """Names that a statement in a function declares to be the module's."""
    return (name for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names)


def _modules(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").partition(".")[0]] if not node.level else [""]
    return [alias.name.partition(".")[0] for alias in node.names] if isinstance(node, ast.Import) else []


def _is_stub(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return all(_is_empty(inner) or _is_stub(inner) for inner in node.body)
    return isinstance(node, _FUNCTIONS) and all(map(_is_empty, node.body))


def _is_empty(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    if isinstance(node, ast.Return):
        return isinstance(node.value, ast.Constant) and node.value.value is ...
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _is_harmless(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        value = node.value
        return value is None or all(isinstance(part, _LITERALS) for part in ast.walk(value))
    if isinstance(node, ast.If):
        return _is_main_guard(node)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass))


def _is_main_guard(node: ast.If) -> bool:
    """Whether this is `if __name__ == "__main__":`, which does not run where a program is loaded for its functions."""
    return not node.orelse and ast.unparse(node.test) in ("__name__ == '__main__'", "'__main__' == __name__")


def _is_setting(node: ast.stmt) -> bool:
    """Whether a statement sets up the interpreter or a library: `sys.setrecursionlimit(10**6)`, `getcontext().prec = 50`."""
    if isinstance(node, (ast.If, ast.Try)):
        inner = [*node.body, *node.orelse, *(part for handler in getattr(node, "handlers", []) for part in handler.body)]
        return all(isinstance(part, ast.Pass) or _is_setting(part) for part in inner)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name = _last_name(node.value.func)
        return name.startswith("set") or name in _SETTING
    return isinstance(node, ast.Assign) and all(isinstance(to, ast.Attribute) and isinstance(to.value, ast.Call) for to in node.targets)


def settings_of(block: Sequence[Statement]) -> list[Statement]:
    """Statements that set up the interpreter and read nothing but imports and built-ins."""
    imported = {name for one in block if one.is_import for name in one.binds} | _BUILTINS
    return [one for one in block if all(map(_is_setting, one.nodes)) and one.reads <= imported]


@dataclass(frozen=True)
class Needs:
    """What some names need.

    Attributes:
        own: places of statements in the block itself.
        others: (block, place) of statements in other blocks.
        missing: names that nobody binds.
        by_text: whether names may be reached that cannot be read off (`eval`).
    """

    own: frozenset[int]
    others: tuple[tuple[int, int], ...]
    missing: frozenset[str]
    by_text: bool


def needs(names: Iterable[str], block: Sequence[Statement], others: Sequence[Sequence[Statement]]) -> Needs:
    """The statements that bind names, and all that these need in their turn.

    Args:
        names: wanted.
        block: where they are looked for first.
        others: where else; of several blocks that bind a name the last counts.
    """
    waiting, seen, missing = list(names), set[str](), set[str]()
    roots = frozenset(waiting)
    own, elsewhere = set[int](), set[tuple[int, int]]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        number = _home(name, block, others)
        home = block if number is None else others[number]
        places = _places(name, home, roots)
        if number is None:
            own.update(places)
        else:
            elsewhere.update((number, place) for place in places)
        waiting.extend(read for place in places for read in home[place].reads)
        if not places and name not in _BUILTINS:
            missing.add(name)
    return Needs(frozenset(own), tuple(sorted(elsewhere)), frozenset(missing), bool(seen & _BY_TEXT))


def _home(name: str, block: Sequence[Statement], others: Sequence[Sequence[Statement]]) -> int | None:
    """Which of the other blocks binds a name; None: the block itself, or nobody. A module from nowhere known is the last resort."""
    for foreign in (False, True):
        if any(name in one.binds and one.is_foreign_import == foreign for one in block):
            return None
        for number in reversed(range(len(others))):
            if any(name in one.binds and one.is_foreign_import == foreign for one in others[number]):
                return number
    return None


def _places(name: str, block: Sequence[Statement], roots: frozenset[str]) -> list[int]:
    """Places of the statements that bind a name or change its value, imports from nowhere known only where there is nothing else.

    A call of one of the `roots` is an example of its use, whatever it changes.
    """
    binding = [place for place, one in enumerate(block) if name in one.binds]
    known = [place for place in binding if not block[place].is_foreign_import]
    if binding and all(block[place].is_import for place in binding):
        return known or binding
    by_call = frozenset(chain.from_iterable(one.binds for one in block if name in one.effects)) - roots
    return sorted({*known, *(place for place, one in enumerate(block) if name in one.changes or by_call & one.calls)})
