"""Errors a user can act on: one sentence that says what, where, and what was expected."""

from __future__ import annotations

import difflib
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
