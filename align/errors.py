"""Errors a user can act on: one sentence that says what, where, and what was expected."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable


class AlignError(ValueError):
    """A mistake in what the user gave. The command line prints it as one sentence and exits with 2."""


class InterruptedRunError(AlignError):
    """What runs was asked to stop; the same command goes on with it."""


class StageFaultError(AlignError):
    """A stage ended by a fault of ours. The command line exits with 1."""


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
    errno.ENOLCK: "the file system keeps no locks: give another folder", errno.ENOTEMPTY: "another process writes there",
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


_NUMBER = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)|\[Errno (\d+)\]")
_WORDS = {os.strerror(number): number for number in TOLD}
_TORCH_WRITES = ("iostream error", "inline_container.cc", "PytorchStreamWriter")


def of_the_system(error: BaseException) -> OSError | None:
    """The system's error that a user can do something about and that lies behind another one; None where none does.

    Python's errors are followed back to what they came from. Libraries in Rust and C++ tell the system's error in words of their own.

    >>> of_the_system(RuntimeError("I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    >>> of_the_system(ValueError("a bug"))
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        link = link.__cause__ or link.__context__
    for one in seen:
        if isinstance(one, OSError) and one.errno in TOLD:
            return one
        text = str(one)
        numbers = [int(number) for groups in _NUMBER.findall(text) for number in groups if number]
        numbers += [number for words, number in _WORDS.items() if isinstance(one, (RuntimeError, OSError)) and words in text]
        if told := [number for number in numbers if number in TOLD]:
            return OSError(told[0], os.strerror(told[0]))
    if any(isinstance(one, RuntimeError) and any(sign in str(one) for sign in _TORCH_WRITES) for one in seen):
        return OSError("a file of the training could not be written to its end: look whether the disk is full or failing")
    return None
