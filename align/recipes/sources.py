"""Recipes as files: where they are, what YAML they hold, and what a recipe takes from those that it extends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from align.errors import AlignError, nearest
from align.hub import not_there
from align.secrets import masked
from align.trees.files import FILES, file_type
from align.trees.messages import described

_CHECKOUT = Path(__file__).parent.parent.parent / "recipes"
RECIPES = _CHECKOUT if _CHECKOUT.is_dir() else Path(sys.prefix) / "share" / "align" / "recipes"
METHODS = "methods"
"""The folder of what recipes extend: a method's own values, without model, data and sizes. Not a recipe by itself."""


def find(source: str | Path) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        AlignError: there is none; names the nearest.
    """
    for candidate in (Path(source), RECIPES / source, RECIPES / f"{source}.yaml"):
        if candidate.is_file():
            return candidate
    path = Path(source)
    if path.is_dir():
        raise AlignError(f"{source}: it is a folder: expected a recipe, a .yaml file or one of those that `align recipes` lists")
    if path.suffix in (".yaml", ".yml"):
        raise AlignError(f"{source}: no such recipe: {not_there(str(path))} (`align recipes` lists those that come along)")
    raise AlignError(f"{source}: no such recipe: {nearest(str(source), [name for name, _ in available()])}")


def available() -> list[tuple[str, str]]:
    """Name and description of the recipes that come along."""
    parts = (f"{METHODS}/", "accelerate/")
    return [(name, read_yaml(path).get("description", "")) for name, path in _files() if not name.startswith(parts)]


def _files() -> Iterator[tuple[str, Path]]:
    for path in sorted(RECIPES.rglob("*.yaml")):
        yield path.relative_to(RECIPES).with_suffix("").as_posix(), path


def read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a recipe's file over what it extends: sections are joined key by key, other values and lists take the place of
    the extended ones, and a section that is null is as if it were not extended.

    Args:
        path: of the recipe.
        below: the files that extend this one.

    Raises:
        AlignError: it is not YAML with keys, extends what is not there, or extends itself.
    """
    if file_type(path) in FILES and path.suffix != ".json":
        raise AlignError(f"{path}: it is a file of data: expected a recipe, a .yaml file whose data.train names it")
    content = read_yaml(path)
    if not isinstance(content, dict):
        found = "nothing: it is empty" if content is None else described(content)
        raise AlignError(f"{path}: expected keys such as `model` and `data`, found {found}")
    extended = content.pop("extends", None)
    names = [extended] if isinstance(extended, str) else extended or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AlignError(f"{path}: extends is {extended!r}: expected the name of a recipe, as methods/dice, or a list of names")
    base: dict[str, Any] = {}
    for name in names:
        source = _extended(path, name)
        if source.resolve() in {one.resolve() for one in (*below, path)}:
            raise AlignError(f"{path}: extends '{name}', which extends {path.name} in turn")
        base = _joined(base, read(source, (*below, path)))
    return _joined(base, content)


def _extended(path: Path, name: str) -> Path:
    """The file that a recipe extends: next to it, or by its name below `recipes/`."""
    for folder in (path.parent, RECIPES):
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    known = [name for name, _ in _files() if not name.startswith("accelerate/")]
    raise AlignError(f"{path}: extends '{name}': no such file next to it, and no such recipe: {nearest(name, known)}")


def _joined(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(base)
    for key, value in over.items():
        below = joined.get(key)
        if isinstance(below, dict) and value is None:
            del joined[key]
        else:
            joined[key] = _joined(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return joined


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        AlignError: it is not valid YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise AlignError(f"{path}: not valid YAML: it is no UTF-8 text (byte {error.start}): save it as UTF-8") from error


class _Loader(yaml.SafeLoader):
    """YAML's plain types; a key that stands twice in one section is an error, where YAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"):
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise DuplicateKeyError(f"the key '{name}' stands in line {lines[name]} and again in line {line}: keep one of them")
            lines[name] = line
        return dict(super().construct_mapping(node, deep))


class DuplicateKeyError(yaml.YAMLError):
    """A key stands twice in one section."""


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds; `where` names it in errors.

    Raises:
        AlignError: it is not valid YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise AlignError(f"{where}: not valid YAML: {masked(_problem(error))}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:  # also dates and numbers that there are not
        raise AlignError(f"{where}: not valid YAML: {masked(' '.join(str(error).split()))}") from error


def _problem(error: yaml.MarkedYAMLError) -> str:
    """A YAML error's own sentence with the line that it stands in."""
    mark = error.problem_mark or error.context_mark
    said = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    if mark is None:
        return said
    line = f"line {mark.line + 1}, column {mark.column + 1}: {said}"
    text = "" if mark.buffer is None else mark.buffer.rstrip("\0").splitlines()[mark.line : mark.line + 1]
    if text and "\t" in text[0][: len(text[0]) - len(text[0].lstrip())]:
        return f"{line} (the line begins with a tab: YAML wants blanks)"
    return line
