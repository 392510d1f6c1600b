"""Importing torch and its libraries makes a million objects, none of which is garbage: looking for some takes a quarter of the time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Import in here."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
