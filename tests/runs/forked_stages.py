"""Stages that tell of the process they are in; the module counts how often it is imported."""

import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path

from align.runs import Task, write_json

if counted := os.environ.get("COUNT_IMPORTS"):
    with open(counted, "a") as file:
        file.write("imported\n")


def about(task: Task) -> None:
    """Output `about.json`: parent, session, environment, descriptors, signals."""
    write_json(
        task.folder / "about.json",
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "variables": {name: value for name, value in os.environ.items() if name.startswith("FORKS_")},
            "open": sorted(str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.exists()),
            "ignored": [int(number) for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN],
            "main": sys.modules["__main__"].__spec__.name,
        },
    )


def untidy(task: Task) -> None:
    """Output `thread` and `exit`, made by a thread and an exit handler after the stage has returned."""

    def late():
        time.sleep(0.3)
        (task.folder / "thread").touch()

    threading.Thread(target=late).start()
    atexit.register((task.folder / "exit").touch)


def status(task: Task) -> None:
    """Ends its process with a status of its own, or by a signal."""
    if task.settings["status"] < 0:
        os.kill(os.getpid(), -task.settings["status"])
    sys.exit(task.settings["status"])


def slow_to_end(task: Task) -> None:
    """Takes a second to end when it is asked to, and leaves `ended in order`."""

    def end(number, frame):
        time.sleep(1.0)
        (task.folder / "ended in order").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    (task.folder / "begun").touch()
    time.sleep(60)
