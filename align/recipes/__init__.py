"""The typed recipe: YAML → checked settings, dotted overrides, and errors that name the key."""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from align import loss_names
from align.errors import AlignError, nearest
from align.ranges import TRAINING, out_of_range, out_of_range_in
from align.recipes.measures import with_whole_entries
from align.recipes.schema import Recipe
from align.recipes.sources import METHODS, RECIPES, available, find, parse_yaml, read, read_yaml
from align.recipes.training_keys import training_types
from align.secrets import check_no_secret, masked
from align.validation import first_problem

__all__ = [
    "METHODS", "RECIPES", "Recipe", "available", "changed", "dotted", "find", "json_schema", "load", "parse", "read", "read_yaml",
    "variant", "with_changes",
]  # fmt: skip

GONE = {"evaluation": "its task is a suite of `measure`, as in measure: [{suite: sums, problems: 400}]"}
"""Sections that earlier versions had → what to write instead."""


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of one below `recipes/` ("dpo/llama3-8b").
        overrides: `key.path=value`, the value in YAML.

    Raises:
        AlignError: no such file, not YAML, an unknown key (with the nearest one) or a value of the wrong type, in it or in what it
            extends.
    """
    path = find(source)
    raw = with_whole_entries(read(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise AlignError(f"override '{masked(override)}': expected key.path=value")
        _set(raw, key, parse_yaml(value, f"override '{masked(override)}'"), f"override '{key}'")
    return parse(raw, str(path))


def parse(raw: Mapping[str, Any], where: str) -> Recipe:
    """Check a recipe given as plain data; `where` names it in errors.

    Raises:
        AlignError: as `load`.
    """
    check_no_secret(raw, where)
    for section in GONE:
        if section in raw:
            raise AlignError(f"{where}: {section} is not a key any more: {GONE[section]}")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise AlignError(first_problem(error, where, Recipe)) from error
    recipe.training = _training(recipe.training, where)
    _settle_seeds(recipe, where)
    if (problem := out_of_range_in(recipe)) is not None:
        raise AlignError(f"{where}: {problem[0]} is {problem[1]}")
    if not recipe.seeds or len(set(recipe.seeds)) < len(recipe.seeds) or not all(TRAINING["seed"].has(seed) for seed in recipe.seeds):
        raise AlignError(f"{where}: seeds is {recipe.seeds}: expected different whole numbers from 0 to 2^32 − 1, one at least")
    for name, changes in recipe.variants.items():
        if name.startswith(".") or any(sign in name for sign in "/\\\0"):
            raise AlignError(f"{where}: variants.{name}: it names a folder: expected no slash, and no dot at its beginning")
        if not {"variants", "seeds", "training.seed"}.isdisjoint(dotted(changes)):
            raise AlignError(f"{where}: variants.{name}: a variant cannot have variants or seeds of its own")
        parse({**with_changes(raw, changes, f"{where}: variants.{name}"), "variants": {}}, f"{where} (variant {name})")
    return recipe


def _settle_seeds(recipe: Recipe, where: str) -> None:
    """A training's seed is that of the run: where it alone is given, it takes the place of `seeds`."""
    seed = recipe.training.get("seed")
    if seed is None or recipe.seeds == [seed]:
        return
    if "seeds" in recipe.model_fields_set:
        raise AlignError(f"{where}: training.seed is {seed}, but there is a run for each of seeds, {recipe.seeds}: give seeds alone")
    recipe.seeds = [seed]


def variant(recipe: Recipe, name: str | None, seed: int) -> Recipe:
    """The recipe of one run: a variant's overrides applied, its seed set, its own output folder."""
    raw = recipe.model_dump()
    raw = with_changes(raw, recipe.variants[name] if name is not None else {}, f"variants.{name}")
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
    return parse(with_changes(recipe.model_dump(), changes, where), where)


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
    for section in schema["$defs"].values():
        section.pop("required", None)  # what a recipe extends may have it
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["extends"]}]
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    about = "What this recipe is written over: a method (methods/dice), another recipe by its name or path, or several, later ones first."
    schema["properties"] = {"extends": {"description": about, **names}, **schema["properties"]}
    entries = schema["properties"]["measure"]
    entries["items"] = {"anyOf": [{"type": "string"}, *entries["items"]["oneOf"]]}
    schema["properties"]["training"] = {"description": schema["properties"]["training"].get("description", ""), **training}
    return {**json.loads(json.dumps(schema)), "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "align recipe"}


def _set(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key; a part that is a number is a place in a list, as in `measure.0.problems`."""
    *above, last = key.split(".")
    section: Any = raw
    for part in above:
        if isinstance(section, dict) and section.get(part) is None:
            section[part] = {}
        section = section[_place(section, part, where)]
        if not isinstance(section, (dict, list)):
            raise AlignError(f"{where}: {part} is not a section")
    section[_place(section, last, where)] = value


def _place(section: dict[str, Any] | list[Any], part: str, where: str) -> str | int:
    """A part of a key as the index that it is of a section or a list."""
    if isinstance(section, dict):
        return part
    if not part.isdecimal() or int(part) >= len(section):
        raise AlignError(f"{where}: '{part}' is no place in a list of {len(section)}, the first of which is 0")
    return int(part)


def with_changes(raw: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Plain data with overrides applied, dotted or below their sections (see `dotted`); `where` names them in errors.

    Raises:
        AlignError: a key goes through what is no section.
    """
    changed = copy.deepcopy(with_whole_entries(raw))
    for key, value in dotted(changes).items():
        _set(changed, key, value, where)
    return changed


def dotted(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by dotted keys: those below a section, `training: {beta: 0.3}`, change that section's keys and leave the others.

    >>> dotted({"training": {"beta": 0.3}, "rounds.filter": {"min_responses": 2}, "model": {"lora": {"r": 4}}})
    {'training.beta': 0.3, 'rounds.filter': {'min_responses': 2}, 'model.lora.r': 4}
    """
    found: dict[str, Any] = {}
    for key, value in changes.items():
        if key in _SECTIONS and isinstance(value, dict):
            found |= dict(_below(key, value))
        else:
            found[key] = value
    return found


_SECTIONS = ("model", "data", "rollouts", "rounds", "thoughts", "code", "training", "resources")
_OF_ANY_KEYS = ("options", "columns")


def _below(above: str, section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value and key not in _OF_ANY_KEYS:
            yield from _below(f"{above}.{key}", value)
        else:
            yield f"{above}.{key}", value


def _training(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of a training in their types, losses under our names."""
    checked = {key: _training_value(key, value, where) for key, value in settings.items()}
    if (problem := out_of_range(checked)) is not None:
        raise AlignError(f"{where}: training.{problem[0]} is {problem[1]}")
    if "loss_type" in checked:
        loss_names.check(checked["loss_type"], f"{where}: training.loss_type")
        checked["loss_type"] = loss_names.canonical_types(checked["loss_type"])
    return checked


def _training_value(key: str, value: Any, where: str) -> Any:
    known = training_types()
    if key not in known:
        raise AlignError(f"{where}: training.{key} is not a key: {nearest(key, known)}")
    if isinstance(value, bool) and known[key] in (int, float, float | None, int | None):
        raise AlignError(f"{where}: training.{key} is {str(value).lower()}: expected a number")
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
