"""Ends a stage's process group when its driver is gone, however it went. Run by path, with the group's id; standard library only.

Standard input is a pipe from the driver. A byte says that the group has ended in order; its closing, that the driver died.
"""

import contextlib
import os
import signal
import sys
import time


def watch(group: int, grace: float) -> None:
    """Wait for the driver; if it died, SIGTERM to the group, and SIGKILL after `grace` seconds."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.read(0, 1):
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]))
