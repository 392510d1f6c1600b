"""How a program's process ends when the harness in it ends it: it says why on the channel to the tester.

An exit status would not do: a program can end with any.
"""

from __future__ import annotations

import os
from typing import NoReturn

from . import wire

CHANNEL = 3  # the descriptor of the way to the tester; 0 to 2 are input and output
REASONS = {"memory": ("memory", ""), "fork": ("forbidden", "fork")}
"""The verdict of each reason. A program that names one itself fails with it."""

_FRAMES = {reason: wire.frame(("stopped", reason)) for reason in REASONS}  # made in advance: there may be no memory left


def stop(reason: str) -> NoReturn:
    """End the calling process, for a reason of `REASONS`."""
    try:
        os.write(CHANNEL, _FRAMES[reason])
    finally:
        os._exit(1)
