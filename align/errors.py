"""Errors a user can act on: one sentence that says what, where, and what was expected."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class AlignError(ValueError):
    """A mistake in what the user gave. The command line prints it as one sentence and exits with 2."""


class InterruptedRunError(AlignError):
    """What runs was asked to stop; the same command goes on with it."""


LISTED = 30  # options that a hint names


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint that names the option nearest to a misspelt one, or lists what there is.

    >>> nearest("learning_rat", ["learning_rate", "beta"])
    "did you mean 'learning_rate'?"
    >>> nearest("x", ["b", "a"])
    'there are a, b.'
    >>> nearest("x", map(str, range(5000)))[-21:]
    ' 1023 and 4,970 more.'
    """
    options = list(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(options) - LISTED:,} more" if len(options) > LISTED else ""
    return f"there are {', '.join(sorted(options)[:LISTED])}{more}."


TOLD = {
    errno.ENOSPC: "make room", errno.EDQUOT: "make room in your quota", errno.EROFS: "the file system is read-only: give another folder",
    errno.EACCES: "give a folder that you may write to", errno.EPERM: "give a folder that you may write to",
    errno.ENOTDIR: "a file stands where a folder is needed", errno.EEXIST: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.ENAMETOOLONG: "give a shorter name", errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the machine has too many files open", errno.ESTALE: "the network file system lost it", errno.EIO: "the disk failed",
    errno.ELOOP: "a link leads to itself",
}  # fmt: skip
"""What a user can do about a system's error, by its number."""


def in_words(error: OSError) -> str:
    """A system's error as a sentence: which file, what happened, what to do.

    >>> in_words(OSError(28, "No space left on device", "runs/a"))
    'runs/a: No space left on device: make room'
    """
    parts = [str(error.filename)] if error.filename is not None else []
    parts.append(error.strerror or str(error) or type(error).__name__)
    return ": ".join([*parts, *([TOLD[error.errno]] if error.errno in TOLD else [])])
