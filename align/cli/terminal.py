"""How commands print tables."""

from __future__ import annotations

import os
import sys


def show(what: object) -> None:
    """Print a rich table or tree, as wide as the terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(what)


def in_utf8() -> None:
    """Start this command anew in Python's UTF-8 mode where the locale knows ASCII alone: files, names and what is printed are UTF-8."""
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower() in ("utf-8", "utf8"):
        return
    command = [sys.executable, "-X", "utf8", "-m", "align.cli", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})
