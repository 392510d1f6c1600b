"""What recipes and task files name: an entry of a registry, an installed package's, or "module:name" of the user's own."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from align.errors import AlignError, nearest

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Entries of one kind by name.

    An entry is registered by a decorator, or stands as "module:name" and is imported when it is asked for. Installed packages add
    theirs as entry points of the group "align.KIND".
    """

    def __init__(self, kind: str, key: str, elsewhere: Mapping[str, str] | None = None) -> None:
        """
        Args:
            kind: what they are, in the plural: "scorers".
            key: where a user writes such a name: "rounds.scorers".
            elsewhere: entries that are imported when they are asked for, as "module:name".
        """
        self.kind, self.key = kind, key
        self._entries: dict[str, Entry | str | EntryPoint] = dict(elsewhere or {})
        for point in entry_points(group=f"align.{kind}"):
            self._entries.setdefault(point.name, point)

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that enters what it decorates under a name."""

        def enter(entry: Entry) -> Entry:
            self._entries[name] = entry
            return entry

        return enter

    def find(self, name: str) -> Entry:
        """The entry of that name, or what "module:name" names.

        Raises:
            AlignError: there is none.
        """
        self.check(name)
        found: Entry = self[name] if name in self._entries else imported(name, self.key)
        return found

    def check(self, name: str) -> None:
        """See that a name can be found; what stands elsewhere is not imported for it.

        Raises:
            AlignError: it cannot.
        """
        if name in self._entries:
            return
        if ":" not in name:
            raise AlignError(f"{self.key} is '{name}': {nearest(name, self._entries)}")
        imported(name, self.key)

    def __getitem__(self, name: str) -> Entry:
        entry = self._entries[name]
        if isinstance(entry, EntryPoint):
            entry = entry.value
        return imported(entry, self.key) if isinstance(entry, str) else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def sentence(self, name: str) -> str:
        """What an entry says of itself: the first sentence of its docstring, read without importing what stands elsewhere."""
        entry = self._entries[name]
        place = entry.value if isinstance(entry, EntryPoint) else entry
        text = _docstring_at(place) if isinstance(place, str) else inspect.getdoc(place)
        return " ".join((text or "").split("\n\n")[0].split())


def imported(name: str, key: str) -> Any:
    """What "module:name" names.

    Raises:
        AlignError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of the user's own raises when it is imported
        reason = error if isinstance(error, (ImportError, AttributeError, ValueError)) else f"{type(error).__name__}: {error}"
        raise AlignError(f"{key}: '{name}': expected 'module:name' of something that can be imported ({reason})") from error


def _docstring_at(place: str) -> str | None:
    """The docstring of "module:name", from the module's source."""
    module, _, name = place.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name)
    return next((ast.get_docstring(node) for node in found), None)


def registered_in(source: Path, decorator: str) -> dict[str, str]:
    """What functions say that a module registers by `@DECORATOR("name", source="…")`, by name, read without importing it.

    Args:
        source: the module's file.
        decorator: its name.
    """
    found = {}
    for node, call in _decorated(source, decorator):
        sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        paper = next((ast.literal_eval(word.value) for word in call.keywords if word.arg == "source"), "")
        found[ast.literal_eval(call.args[0])] = f"{sentence} [{paper}]"
    return found


def keyword_only_in(source: Path, decorator: str) -> dict[str, tuple[str, ...]]:
    """The names of the keyword-only arguments of the functions that a module registers; arguments as of `registered_in`."""
    return {
        ast.literal_eval(call.args[0]): tuple(argument.arg for argument in node.args.kwonlyargs)
        for node, call in _decorated(source, decorator)
    }


def _decorated(source: Path, decorator: str) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    """A module's functions with a decorator that is called, and the call."""
    functions = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    for node in functions:
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                yield node, call
