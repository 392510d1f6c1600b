"""One run in a group of processes: the main one leads, and the others join in where it says so."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from align.errors import AlignError

_POLL = 0.2  # seconds


def lead(run: Callable[[Callable[[str], None]], None], join: Callable[[str], None], folder: Path) -> None:
    """Have the main process carry out a run, and the others join in.

    Orders go through a file of the folder, which all processes share: a collective operation would time out while the main process is
    busy with stages of hours.

    Args:
        run: called on the main process, with what tells the others an order.
        join: called on each of the others, with every order.
        folder: on a disk that all processes see.

    Raises:
        AlignError: on the others, where the main process failed.
    """
    state = PartialState()
    if state.num_processes == 1:
        return run(lambda order: None)
    [token] = broadcast_object_list([uuid.uuid4().hex])
    path = folder / f"orders-{token}.jsonl"
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        for left in set(folder.glob("orders-*.jsonl")) - {path}:  # by a run that was killed
            left.unlink()
        try:
            run(lambda order: _tell(path, {"join": order}))
        except BaseException as error:
            _tell(path, {"failed": str(error)})
            raise
        _tell(path, {"end": ""})
    else:
        for order in _orders(path):
            join(order)
    state.wait_for_everyone()
    if state.is_main_process:
        path.unlink()
    return None


def _tell(path: Path, order: dict[str, str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(order) + "\n")


def _orders(path: Path) -> Iterator[str]:
    """Every order of the main process, as it comes, until the end."""
    done = 0
    while True:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        for line in whole[done:]:
            order = json.loads(line)
            if "failed" in order:
                raise AlignError(f"the main process has failed: {order['failed']}")
            if "end" in order:
                return
            yield order["join"]
        done = len(whole)
        time.sleep(_POLL)
