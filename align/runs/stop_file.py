"""A file that asks whatever runs here to save what it has and to end. The job scripts make it near a job's time limit."""

from __future__ import annotations

import os

STOP_FILE = "ALIGN_STOP_FILE"
"""The environment variable that names it."""


def watched() -> bool:
    """Whether there may be such a file one day."""
    return bool(os.environ.get(STOP_FILE))


def asked_to_stop() -> bool:
    """Whether it is there."""
    return watched() and os.path.exists(os.environ[STOP_FILE])
