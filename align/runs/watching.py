"""What is seen of a run while it goes on: signs of life of its stages, and what their processes write to standard error."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from align.runs.stage import HowFar, how_far
from align.secrets import masked

LOG_STEPS = "ALIGN_LOG_STEPS"
"""Tells a stage's process whether its training is to print a line for each log step: 1 or 0."""
TICK = 0.5  # seconds between two looks at how far a stage is
LONGEST = 1 << 16  # bytes of a line that is waited for
_FOR_THE_USER = re.compile(r"(?:\s*\d+: )?(?:align|note): ")  # a number in front comes from srun


class Watcher:
    """Who is told of a run's stages while they run. This one hands on errors and is silent otherwise.

    Attributes:
        log_steps: trainings are to print a line for each log step.
        everything: all that stages write to standard error is handed on, not their sentences alone.
    """

    log_steps = False
    everything = False

    def alive(self, stage: str, far: HowFar | None, seconds: float) -> None:
        """A stage has been running for some seconds; how far it is, where it says so. Called every half second, by a thread."""

    def error(self, line: str) -> None:
        """A line that a stage's process wrote to standard error for the user."""
        print(line, file=sys.stderr, flush=True)


class Labelled(Watcher):
    """Hands on to another watcher what one of several runs shows, under the run's name."""

    def __init__(self, label: str, watcher: Watcher) -> None:
        """Args: the run's name; whom it is handed on to."""
        self._label, self._watcher = label, watcher
        self.log_steps, self.everything = watcher.log_steps, watcher.everything

    def alive(self, stage: str, far: HowFar | None, seconds: float) -> None:
        """See `Watcher`."""
        self._watcher.alive(f"{self._label} {stage}", far, seconds)

    def error(self, line: str) -> None:
        """See `Watcher`."""
        self._watcher.error(line)


class Now:
    """The stage that runs at the moment, and since when."""

    def __init__(self, folder: Path, name: str) -> None:
        self.begin(folder, name)

    def begin(self, folder: Path, name: str) -> None:
        """Another stage runs from here on; returns nothing."""
        self.folder, self.name, self.since = folder, name, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.since


@contextlib.contextmanager
def signs_of_life(watcher: Watcher, now: Now) -> Iterator[None]:
    """Tell the watcher every half second, as long as the context lasts, that the stage of the moment runs."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(TICK):
            watcher.alive(now.name, how_far(now.folder), now.seconds)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class StageErrors:
    """The standard error of a stage's process, as a pipe that a thread reads.

    Sentences for the user (they begin with `align: ` or `note: `) go to the watcher, all else, with what looks like a secret masked, to the
    stage's log. Of a line that was written over by carriage returns, as bars are, the last form is kept.

    Attributes:
        descriptor: for the process to write to; `close` it here once the process has it.
        told: a sentence about a failure was handed to the watcher.
    """

    def __init__(self, log: Callable[[], Path], watcher: Watcher) -> None:
        """Args: log, the file of the stage that runs at the moment; who gets the sentences."""
        self._log, self._watcher, self.told = log, watcher, False
        self._read, self.descriptor = os.pipe()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give up this process's end, so that the pipe ends with the stage's processes."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def finish(self, patience: float = 2.0) -> None:
        """Wait until all is read. A process that the stage left behind may hold the pipe open: then it is read as long as it is."""
        self.close()
        self._thread.join(patience)

    def _pump(self) -> None:
        rest = b""
        while piece := os.read(self._read, 1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[rest.rfind(b"\r", 0, -1) + 1 :]
            if len(rest) > LONGEST:
                lines, rest = [*lines, rest], b""
            self._sort(lines)
        os.close(self._read)
        if rest.strip():
            self._sort([rest])

    def _sort(self, lines: list[bytes]) -> None:
        shown = [line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace") for line in lines]
        kept = [line for line in shown if not _FOR_THE_USER.match(line)]
        for line in shown:
            if self._watcher.everything or _FOR_THE_USER.match(line):
                self.told = self.told or "align: " in line
                self._watcher.error(masked(line))
        if kept:
            with contextlib.suppress(OSError), open(self._log(), "a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(masked("\n".join(kept)) + "\n")
