"""How commands print tables, and what they show of a run while it goes on."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import threading
import time

from align.imports import importing_ours
from align.runs.stage import HowFar
from align.runs.watching import TICK, Watcher

SILENCE = 10.0  # seconds after which a stage that runs is heard of, where there is no terminal
_BAR = 20  # characters


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


class Lines(Watcher):
    """What a run shows: lines, and on a terminal a bar below them; elsewhere a further line at least every ten seconds."""

    def __init__(self, *, several: bool = False, quiet: bool = False, everything: bool = False) -> None:
        """Args: several, runs go on side by side, so that one bar would not do; quiet, errors alone; everything, see `Watcher`."""
        self._bar = sys.stderr.isatty() and not several and not quiet
        self._quiet, self.everything = quiet, everything
        self.log_steps = not (self._bar or several or quiet)
        self._lock, self._last, self._drawn = threading.Lock(), time.monotonic(), False

    def say(self, line: str) -> None:
        """Print a line of the run's course."""
        if not self._quiet:
            with self._lock:
                self._clear()
                print(line, flush=True)
                self._last = time.monotonic()

    def error(self, line: str) -> None:
        """Print a line on standard error."""
        with self._lock:
            self._clear()
            print(line, file=sys.stderr, flush=True)

    def alive(self, stage: str, far: HowFar | None, seconds: float) -> None:
        """Draw the bar anew, or print a line if nothing was said for a while."""
        words = f"{stage}: {', '.join([*([str(far)] if far is not None else []), f'{seconds:.0f} s'])}"
        if self._bar:
            with self._lock:
                text = f"{_bar_of(far)}{words}"[: shutil.get_terminal_size().columns - 1]
                print(f"\x1b[2K{text}\r", end="", file=sys.stderr, flush=True)  # what a stage prints itself begins at the line's start
                self._drawn = True
        elif time.monotonic() - self._last > SILENCE - 2 * TICK:
            self.say(words)

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._drawn:
            print("\x1b[2K", end="", file=sys.stderr, flush=True)
            self._drawn = False


def lines_of(options: argparse.Namespace, *, several: bool = False) -> Lines:
    """What a command shows of a run, as -q, -v and --traceback say; `several`: runs go on side by side."""
    return Lines(several=several, quiet=options.quiet, everything=options.verbose or options.traceback)


def _bar_of(far: HowFar | None) -> str:
    """A bar as long as a stage is far; none where that is not known."""
    if far is None or far.total <= 0:
        return ""
    full = min(_BAR, _BAR * far.done // far.total)
    return f"{'█' * full}{'░' * (_BAR - full)} "
