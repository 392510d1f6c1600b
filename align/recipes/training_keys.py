"""The keys of a recipe's `training` and their types, read from the sources of the classes that declare them.

They are the fields of `PreferenceConfig`. Importing it imports trl and transformers' trainer, fifteen seconds of work, which a recipe
that is only read, planned or shown has no use for.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import typing
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
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        source = (Path(spec.origin).parent / file).read_text(encoding="utf-8")
        types |= {key: _type(annotation) for key, annotation in _fields(source, name)}
    return types


def _fields(source: str, name: str) -> list[tuple[str, ast.expr]]:
    """The fields of a dataclass that its constructor takes, with their annotations."""
    body = next(node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    declared = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return [(node.target.id, node.annotation) for node in declared if isinstance(node.target, ast.Name) and not _is_derived(node)]


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
