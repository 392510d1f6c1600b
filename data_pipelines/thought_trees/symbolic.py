"""Equality of mathematical expressions by math-verify, in a process of its own: no expression can hang or exhaust the program that asks.

math-verify (github.com/huggingface/Math-Verify) bounds its time by a signal, which works in a main thread only and is not seen while a
power such as 9^9^9^9 is being computed. Here the operating system ends the process at its limit; the next question starts another.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from align.errors import AlignError

_WORKER = Path(__file__).with_name("symbolic_worker.py")


class _Worker:
    """The process, started when first asked, and again after it was ended. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._hostile: set[str] = set()

    def ask(self, question: dict[str, str]) -> Any:
        """The worker's answer; None where it was ended at its limit, by this question or before by the same expression."""
        asked = question.get("mine") or question.get("canonical") or ""
        with self._lock:
            if asked in self._hostile:
                return None
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
                return json.loads(line)
            except (OSError, ValueError):  # ended: a broken pipe, or an empty line
                self._ended(process)
                self._hostile.add(asked)
                return None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._owner != os.getpid():  # after a fork the pipes are the parent's
            self._process = subprocess.Popen(
                [sys.executable, str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._owner = os.getpid()
        return self._process

    def _ended(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process = None

    def close(self) -> None:
        """End the process, if this program started one."""
        if self._process is not None and self._owner == os.getpid():
            self._ended(self._process)


_WORK = _Worker()
atexit.register(_WORK.close)


@lru_cache(maxsize=20_000)
def same_expression(mine: str, gold: str) -> bool:
    r"""Whether two LaTeX expressions are equal; False as well where that cannot be found out within three seconds of CPU time.

    Raises:
        AlignError: math-verify is not installed.

    >>> same_expression("x^2+2x+1", "(x+1)^2"), same_expression("9^{9^{9^{9}}}", "4")
    (True, False)
    """
    _needs_math_verify()
    return bool(_WORK.ask({"mine": mine, "gold": gold}))


@lru_cache(maxsize=20_000)
def canonical_expression(text: str) -> str | None:
    r"""A LaTeX expression in sympy's writing, expanded; None where it is none, or cannot be read in time.

    Raises:
        AlignError: math-verify is not installed.

    >>> canonical_expression("(x+1)^2") == canonical_expression("x^2+2x+1"), canonical_expression("\\")
    (True, None)
    """
    _needs_math_verify()
    answer = _WORK.ask({"canonical": text})
    return None if answer is None else str(answer)


def _needs_math_verify() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise AlignError("the grader 'maths' needs math-verify for this answer: pip install 'align-preferences[eval]'")
