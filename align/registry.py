"""What recipes and task files name: an entry of a registry, or "module:name" of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from align.errors import AlignError, nearest

Entry = TypeVar("Entry")


def find(name: str, registry: Mapping[str, Entry], key: str) -> Entry:
    """The entry of that name, or what "module:name" names.

    Args:
        name: as the user wrote it.
        registry: what there is.
        key: where the user wrote it, for the error's sentence.

    Raises:
        AlignError: there is none.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        found: Entry = imported(name, key)
        return found
    raise AlignError(f"{key} is '{name}': {nearest(name, registry)}")


def imported(name: str, key: str) -> Any:
    """What "module:name" names.

    Raises:
        AlignError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise AlignError(f"{key}: '{name}': expected 'module:name' of something that can be imported ({error})") from error
