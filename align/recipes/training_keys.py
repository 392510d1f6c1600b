"""The keys of a recipe's `training` and their types, read from the sources of the classes that declare them.

They are the fields of `PreferenceConfig`. Importing it imports trl and transformers' trainer, fifteen seconds of work, which a recipe
that is only read, planned or shown has no use for.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DECLARED_BY = (  # a class after those that it inherits from
    ("transformers", "training_args.py", "TrainingArguments"), ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/dpo_config.py", "DPOConfig"), ("align", "trainers/config.py", "PreferenceConfig"),
)  # fmt: skip


@functools.cache
def training_types() -> dict[str, Any]:
    """The type of every key; `Any` where it names classes of the libraries, whose values are checked when the training starts."""
    types: dict[str, Any] = {}
    for package, file, name in DECLARED_BY:
        types |= {key: _type(field.annotation) for key, field in _fields(_source(package, file), name)}
    return types


@dataclass(frozen=True)
class Described:
    """What the class that declares a key says of it: its default as Python text, and what it is for ("" where that is computed)."""

    default: str
    help: str


@functools.cache
def training_help() -> dict[str, Described]:
    """Default and help of the keys of preference training, those that trl's DPOConfig and `PreferenceConfig` declare."""
    return {key: _described(field) for package, file, name in DECLARED_BY[2:] for key, field in _fields(_source(package, file), name)}


def _described(field: ast.AnnAssign) -> Described:
    """The default and the help of `field(default=…, metadata={"help": …})`, of `_setting(default, help)`, or of a plain default."""
    value = field.value
    if not isinstance(value, ast.Call):
        return Described(ast.unparse(value) if value else "", "")
    words = {word.arg: word.value for word in value.keywords}
    default = words.get("default") or words.get("default_factory") or (value.args[0] if value.args else None)
    told = words.get("metadata") or (value.args[1] if len(value.args) > 1 else None)
    text: Any = ""
    with contextlib.suppress(ValueError):  # a text that is put together when the class is made
        text = ast.literal_eval(told) if told is not None else ""
    text = text.get("help", "") if isinstance(text, dict) else text
    return Described(ast.unparse(default) if default is not None else "", " ".join(text.split()))


def _source(package: str, file: str) -> str:
    """The text of a package's file, read without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / file).read_text(encoding="utf-8")


def _fields(source: str, name: str) -> list[tuple[str, ast.AnnAssign]]:
    """The fields of a dataclass that its constructor takes, by name."""
    body = next(node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    declared = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return [(node.target.id, node) for node in declared if isinstance(node.target, ast.Name) and not _is_derived(node)]


def _is_derived(field: ast.AnnAssign) -> bool:
    """Whether the class computes the field itself: `field(init=False)`."""
    options = field.value.keywords if isinstance(field.value, ast.Call) else []
    return any(option.arg == "init" and ast.unparse(option.value) == "False" for option in options)


def _type(annotation: ast.expr) -> Any:
    text = annotation.value if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str) else ast.unparse(annotation)
    try:
        return eval(text, vars(typing).copy())  # the names of builtins and of typing: libraries' own types stay unknown
    except NameError:
        return Any
