"""A stage's process: `python -m align.runs.worker FOLDER... INDEX/COUNT`. Ends cleanly on SIGTERM, and with its driver."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import io
import logging
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from align import faults
from align.errors import AlignError, InterruptedRunError, in_words
from align.files import write_json
from align.imports import put_ours_first, without_collection
from align.runs.journal import Shard
from align.runs.sharing import sharing
from align.runs.stage import FINISHED, log_of, read_specification
from align.secrets import masked

OURS = ("align", "data_pipelines", "eval")
NOTHING_LEFT = 1 << 20  # bytes of disk
FAULT, MISTAKE = 1, 2  # exit statuses: a fault of ours; a mistake of the user's, or a machine that fails
TERMINATED = 128 + signal.SIGTERM


def main(*arguments: str) -> int:
    """Run the stages whose specifications lie in the folders that are named first, one after the other, until one fails.

    Args:
        arguments: folders, and at last the shard.

    Returns:
        The exit status.
    """
    *folders, shard = arguments
    put_ours_first()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of what a terminal cannot show, the escape
    signal.signal(signal.SIGTERM, _stop)
    _end_with_parent()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.raiseExceptions = False  # a log that cannot be written is no reason to print where
    terminal = logging.getLogger().handlers[0]
    terminal.setFormatter(_Note("%(message)s"))
    terminal.setLevel(logging.WARNING)
    terminal.addFilter(lambda record: record.name.partition(".")[0] in OURS)  # what libraries warn of stands in the log alone
    for package in OURS:  # what they decide, such as an attention backend, is found in the log
        logging.getLogger(package).setLevel(logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it has no faster kernel for this CPU: told at every import
    with sharing() if len(folders) > 1 else contextlib.nullcontext():
        return _run_all(list(map(Path, folders)), Shard.parse(shard))


def _run_all(folders: Sequence[Path], shard: Shard) -> int:
    """Run stages until one fails, each with a log of its own; returns the last one's exit status."""
    for here in folders:
        with _logging_to(log_of(here, shard, os.environ.get("RANK", "0"))) as log:
            status = _run(here, shard, log, several=len(folders) > 1)
        if status:
            return status
    return 0


class _Masked(logging.Formatter):
    """Log lines with whatever looks like a secret masked."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _Note(_Masked):
    """A warning as one line, marked so that the driver hands it on to the terminal (see `align.runs.watching`)."""

    def format(self, record: logging.LogRecord) -> str:
        return f"note: {' '.join(super().format(record).split())}"


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[logging.Handler]:
    """Have warnings, and what this project's own packages tell, go to a file; without it where it cannot be opened."""
    try:
        log: logging.Handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        logging.getLogger("align").warning("there will be no log: %s", in_words(error))
        log = logging.NullHandler()
    log.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(log)
    yield log
    logging.getLogger().removeHandler(log)
    with contextlib.suppress(OSError):
        log.close()


def _run(here: Path, shard: Shard, log: logging.Handler, several: bool) -> int:
    """Run one stage.

    Args:
        here: its folder.
        shard: its part.
        log: where an error's traceback goes; `ALIGN_TRACEBACK` in the environment shows it in the terminal, too.
        several: other stages follow in this process, and the driver is told that this one is finished.

    Returns:
        The exit status that a process of its own would have.
    """
    name = here.name
    try:
        function, task = read_specification(here, shard)
        name = task.name
        module, _, called = function.partition(":")
        with without_collection():
            stage = getattr(importlib.import_module(module), called)
        stage(task)
        _note_usage(here, task.shard)
        if several:
            (here / FINISHED).parent.mkdir(exist_ok=True)
            (here / FINISHED).touch()
    except InterruptedRunError as error:
        return _told(f"{name}: {error}", TERMINATED)
    except KeyboardInterrupt:
        return TERMINATED
    except Exception as error:
        log.handle(logging.LogRecord("align", logging.ERROR, __file__, 0, "%s failed", (name,), sys.exc_info()))
        if os.environ.get("ALIGN_TRACEBACK"):
            print(masked("".join(traceback.format_exception(error))), file=sys.stderr)
        sentence = str(error) if isinstance(error, AlignError) else _of_the_machine(error, here)
        if sentence is None:
            path = log_of(here, shard, os.environ.get("RANK", "0"))
            return _told(f"{name}: {faults.fault_of_ours(error, path if path.is_file() else faults.kept(error))}", FAULT)
        return _told(f"{name}: {sentence}", MISTAKE)
    return 0


def _told(sentence: str, status: int) -> int:
    print(f"align: {masked(' '.join(sentence.split()))}", file=sys.stderr)
    return status


def _of_the_machine(error: BaseException, folder: Path) -> str | None:
    """What a user can do about a failing disk or machine, a library or a part of the user's own; None where it is a fault of ours."""
    if _is_full_disk(error, folder):
        return "No space left on device: make room, then run the same command to go on"
    sentence = faults.sentence_of(error)
    return f"{sentence}, then run the same command to go on" if sentence is not None else None


def _note_usage(folder: Path, shard: Shard) -> None:
    """Leave the most memory that this process held, bytes, for the report; of the GPU only where torch was used."""
    usage = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        usage["gpu_memory"] = torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):  # the report goes without; what the stage made is whole
        write_json(folder / f"usage-{shard.index}-{os.environ.get('RANK', '0')}.json", usage)


def _is_full_disk(error: BaseException, folder: Path) -> bool:
    """Whether an error comes from a full disk, which libraries tell in words of their own (torch.save: "unexpected pos")."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < NOTHING_LEFT
    return False


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(TERMINATED)


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the driver dies, so that nothing goes on unattended (and keeps a GPU)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        _stop(signal.SIGTERM, None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
