"""How commands print tables."""

from __future__ import annotations

import sys


def show(what: object) -> None:
    """Print a rich table or tree, as wide as the terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(what)
