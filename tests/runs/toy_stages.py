"""Stages quick enough to be killed hundreds of times: units of text, each a file line computed from the one before."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from align.errors import AlignError
from align.runs import Finished, Output, Stage, Task, Work, read_journal, write_json


def plan(count=10, times=1, pause=0.0, processes=1):
    """All three of the stages that make something of each other's."""
    return [
        Stage("one", "toy_stages:numbers", {"count": count, "pause": pause}, resources={"processes": processes}),
        Stage("two/deep", "toy_stages:total", {"times": times}, {"units": Output("one", "units")}),
        Stage("three", "toy_stages:whole", {"pause": pause}, {"total": Output("two/deep", "total.json")}),
    ]


@dataclass
class Unit:
    id: str


def numbers(task: Task) -> None:
    """Output `units/`: the squares of 0 … count − 1, journalled in batches of three."""
    units = [Unit(f"{i:03d}") for i in range(task.settings["count"])]

    def squares(batch):
        time.sleep(task.settings.get("pause", 0.0))
        return Finished((unit.id, {"square": int(unit.id) ** 2, "batch": [u.id for u in batch]}) for unit in batch)

    Work(task, "units", units, 3).map(squares)


def total(task: Task) -> None:
    """Output `total.json`, and `seen.txt`, a line for every time the stage was begun."""
    records = read_journal(task.path("units"))
    write_json(task.folder / "total.json", {"total": task.settings.get("times", 1) * sum(r["square"] for r in records.values())})


def whole(task: Task) -> None:
    """Output `copy.json`, the total, after a while in which it leaves a torn file."""
    (task.folder / "half.tmp").write_text('{"tot')
    time.sleep(task.settings.get("pause", 0.0))
    write_json(task.folder / "copy.json", json.loads(task.path("total").read_text()))


def process(task: Task) -> None:
    """Output `process.json`, the number of the process that ran the stage."""
    time.sleep(task.settings.get("pause", 0.0))
    write_json(task.folder / "process.json", os.getpid())


def wrong(task: Task) -> None:
    """A user's mistake."""
    raise AlignError("the moon is not made of cheese")


def crash(task: Task) -> None:
    """What nobody foresaw."""
    raise RuntimeError("a bug")


def noisy(task: Task) -> None:
    """What libraries write, and what is meant for the user."""
    import logging
    import warnings

    print("a user's own print", flush=True)
    print("  0%|   |\r 50%|## |\r100%|####|\n", end="", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'from a C library: hf_abcdefghijklmnopqrstuvwxyz\\n')"], check=True)
    warnings.warn("of a library", stacklevel=1)
    logging.getLogger("transformers").warning("a library warns")
    logging.getLogger("align.toys").warning("it is slower\nso")


def die_talking(task: Task) -> None:
    """Killed by the system, after last words of a library."""
    os.write(2, b"CUDA error: an illegal memory access\n")
    os.kill(os.getpid(), 9)


def leave(task: Task) -> None:
    """Ends with the status of a fault, without a sentence."""
    os.write(2, b"half of the installation is missing\n")
    os._exit(1)


def die(task: Task) -> None:
    """Killed by the system, as when memory runs out."""
    os.kill(os.getpid(), 9)


def forever(task: Task) -> None:
    """Until it is ended."""
    (task.folder / "begun.txt").write_text(str(os.getpid()))
    time.sleep(600)


def stubborn(task: Task) -> None:
    """Starts a process that does not listen, as an engine's may not; and dies of the first signal itself."""
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
    time.sleep(0.5)
    (task.folder / "begun.txt").write_text(str(child.pid))
    time.sleep(600)
