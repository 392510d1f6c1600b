"""How commands print tables."""

from __future__ import annotations

import io
import os
import sys

from align.imports import importing_ours


def show(what: object) -> None:
    """Print a rich table or tree, as wide as the terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(what)


def in_utf8() -> None:
    """Start this command anew in Python's UTF-8 mode where the locale knows ASCII alone: files, names and what is printed are UTF-8.

    What a terminal of another encoding cannot show, it is shown the escape of.
    """
    if not sys.flags.utf8_mode and sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        command = [sys.executable, "-X", "utf8", "-m", "align.cli", *sys.argv[1:]]
        os.execve(sys.executable, command, importing_ours({**os.environ, "PYTHONUTF8": "1"}))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
