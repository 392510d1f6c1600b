"""The typed recipe: YAML → checked settings, dotted overrides, and errors that name the key."""

from __future__ import annotations

import copy
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from align.errors import AlignError, nearest
from align.recipes.schema import Recipe
from align.recipes.training_keys import training_types
from align.secrets import check_no_secret, masked
from align.validation import first_problem

_CHECKOUT = Path(__file__).parent.parent.parent / "recipes"
RECIPES = _CHECKOUT if _CHECKOUT.is_dir() else Path(sys.prefix) / "share" / "align" / "recipes"


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of one below `recipes/` ("dpo/llama3-8b").
        overrides: `key.path=value`, the value in YAML.

    Raises:
        AlignError: no such file, not YAML, an unknown key (with the nearest one) or a value of the wrong type.
    """
    path = find(source)
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise AlignError(f"{path}: expected keys such as `model` and `data`, found {type(raw).__name__}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise AlignError(f"override '{masked(override)}': expected key.path=value")
        _set(raw, key, _yaml(value, f"override '{masked(override)}'"), f"override '{key}'")
    return parse(raw, str(path))


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        AlignError: it is not valid YAML.
    """
    try:
        return _yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise AlignError(f"{path}: not valid YAML: it is no UTF-8 text (byte {error.start})") from error


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:  # also dates and numbers that there are not
        raise AlignError(f"{where}: not valid YAML: {masked(' '.join(str(error).split()))}") from error


def parse(raw: Mapping[str, Any], where: str) -> Recipe:
    """Check a recipe given as plain data; `where` names it in errors.

    Raises:
        AlignError: as `load`.
    """
    check_no_secret(raw, where)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise AlignError(first_problem(error, where, Recipe)) from error
    recipe.training = {key: _training_value(key, value, where) for key, value in recipe.training.items()}
    for name, changes in recipe.variants.items():
        if "variants" in changes or "seeds" in changes:
            raise AlignError(f"{where}: variants.{name}: a variant cannot have variants or seeds of its own")
        parse({**_with_changes(raw, changes, f"{where}: variants.{name}"), "variants": {}}, f"{where} (variant {name})")
    return recipe


def variant(recipe: Recipe, name: str | None, seed: int) -> Recipe:
    """The recipe of one run: a variant's overrides applied, its seed set, its own output folder."""
    raw = recipe.model_dump()
    raw = _with_changes(raw, recipe.variants[name] if name is not None else {}, f"variants.{name}")
    raw["training"]["seed"] = seed
    parts = [raw["training"].get("output_dir") or "runs/train"]
    parts += [name] if name is not None else []
    parts += [f"seed-{seed}"] if len(recipe.seeds) > 1 else []
    raw["training"]["output_dir"] = "/".join(parts)
    return parse({**raw, "variants": {}, "seeds": [seed]}, f"variant {name}")


def changed(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with dotted overrides applied, checked again; `where` names them in errors.

    Raises:
        AlignError: as `load`.
    """
    return parse(_with_changes(recipe.model_dump(), changes, where), where)


def find(source: str | Path) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        AlignError: there is none; names the nearest.
    """
    for candidate in (Path(source), RECIPES / source, RECIPES / f"{source}.yaml"):
        if candidate.is_file():
            return candidate
    raise AlignError(f"{source}: no such recipe: {nearest(str(source), [name for name, _ in available()])}")


def available() -> list[tuple[str, str]]:
    """Name and description of the recipes that come along."""
    found = []
    for path in sorted(RECIPES.rglob("*.yaml")):
        if path.parent.name != "accelerate":
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            found.append((path.relative_to(RECIPES).with_suffix("").as_posix(), raw.get("description", "")))
    return found


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    from align.trainers.config import PreferenceConfig  # with trl, which takes seconds: for the types' own values and the help texts

    schema = Recipe.model_json_schema()
    properties = {}
    hints = typing.get_type_hints(PreferenceConfig)
    for field in (field for field in fields(PreferenceConfig) if field.init):
        try:
            properties[field.name] = TypeAdapter(hints[field.name]).json_schema()
        except Exception:  # a type that has no JSON form is left open
            properties[field.name] = {}
        description = " ".join(field.metadata.get("help", "").split())
        properties[field.name] |= {"description": description} if description else {}
    training = {"type": "object", "properties": properties, "additionalProperties": False}
    schema["properties"]["training"] = {"description": schema["properties"]["training"].get("description", ""), **training}
    return {**json.loads(json.dumps(schema)), "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "align recipe"}


def _set(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    *above, last = key.split(".")
    place = raw
    for part in above:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise AlignError(f"{where}: {part} is not a section")
    place[last] = value


def _with_changes(raw: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    changed = copy.deepcopy(dict(raw))
    for key, value in changes.items():
        _set(changed, key, value, where)
    return changed


def _training_value(key: str, value: Any, where: str) -> Any:
    known = training_types()
    if key not in known:
        raise AlignError(f"{where}: training.{key} is not a key: {nearest(key, known)}")
    if value is False and key.endswith("_strategy"):
        return "no"  # which YAML reads as false
    hint = known[key]
    if value is None or not _is_plain(hint):
        return value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise AlignError(f"{where}: training.{key} is {value!r}: {error.errors()[0]['msg']}") from error


def _is_plain(hint: Any) -> bool:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return all(part in (int, float, bool, str, type(None)) for part in parts)
