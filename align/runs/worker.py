"""A stage's process: `python -m align.runs.worker FOLDER... INDEX/COUNT`. Ends cleanly on SIGTERM, and with its driver."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from align.errors import TOLD, AlignError, InterruptedRunError, in_words
from align.files import write_json
from align.imports import without_collection
from align.runs.journal import Shard
from align.runs.sharing import sharing
from align.runs.stage import FINISHED, read_specification

NOTHING_LEFT = 1 << 20  # bytes of disk
TERMINATED = 128 + signal.SIGTERM


def main(*arguments: str) -> int:
    """Run the stages whose specifications lie in the folders that are named first, one after the other, until one fails.

    Args:
        arguments: folders, and at last the shard.

    Returns:
        The exit status.
    """
    *folders, shard = arguments
    signal.signal(signal.SIGTERM, _stop)
    _end_with_parent()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it has no faster kernel for this CPU: told at every import
    with sharing() if len(folders) > 1 else contextlib.nullcontext():
        return _run_all(list(map(Path, folders)), shard)


def _run_all(folders: Sequence[Path], shard: str) -> int:
    """Run stages until one fails, each with a log of its own; returns the last one's exit status."""
    for here in folders:
        log = logging.FileHandler(here / "log.txt", encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(log)
        status = _run(here, shard)
        logging.getLogger().removeHandler(log)
        if status:
            return status
        if len(folders) > 1:
            (here / FINISHED).parent.mkdir(exist_ok=True)
            (here / FINISHED).touch()
    return 0


def _run(here: Path, shard: str) -> int:
    """Run one stage; returns the exit status that it would have."""
    function, task = read_specification(here, Shard.parse(shard))
    module, _, name = function.partition(":")
    try:
        with without_collection():
            called = getattr(importlib.import_module(module), name)
        called(task)
        _note_usage(here, task.shard)
    except InterruptedRunError as error:
        print(f"align: {task.name}: {error}", file=sys.stderr)
        return TERMINATED
    except AlignError as error:
        logging.getLogger("align").debug("failed", exc_info=True)
        if os.environ.get("ALIGN_TRACEBACK"):
            raise
        print(f"align: {task.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return TERMINATED
    except Exception as error:
        if _is_full_disk(error, here):
            print(f"align: {task.name}: No space left on device: make room, then run the same command to go on", file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.filename is not None and error.errno in TOLD:
            logging.getLogger("align").debug("failed", exc_info=True)
            print(f"align: {task.name}: {in_words(error)}, then run the same command to go on", file=sys.stderr)
            return 2
        logging.getLogger("align").exception("%s failed in a way that align did not foresee", task.name)
        return 1
    return 0


def _note_usage(folder: Path, shard: Shard) -> None:
    """Leave the most memory that this process held, bytes, for the report; of the GPU only where torch was used."""
    usage = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        usage["gpu_memory"] = torch.cuda.max_memory_allocated()
    write_json(folder / f"usage-{shard.index}-{os.environ.get('RANK', '0')}.json", usage)


def _is_full_disk(error: BaseException, folder: Path) -> bool:
    """Whether an error comes from a full disk, which libraries tell in words of their own (torch.save: "unexpected pos")."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or shutil.disk_usage(folder).free < NOTHING_LEFT


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
