"""Python in text that is not all Python: what compiles, where it stops to compile, and the pieces in between that do."""

from __future__ import annotations

import ast
import functools
import html
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST = 800  # lines that are tried as one piece
_ATTEMPTS = 100  # lines of prose that are tried as the start of a piece
_ASSIGNMENT = r"[A-Za-z_][\w.\[\], ]*?(?::[^=]+)?[-+*/|&]?=(?!=)"
_START = re.compile(rf"(?P<indent>[ \t]*)(?:(?:async def|def|class|import|from|if|for|while|try|with|print)\b|@|>>>|{_ASSIGNMENT})")
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?: |$|(?=\S))")


@dataclass(frozen=True)
class Parsed:
    """What the compiler says of a text.

    Attributes:
        tree: None where it does not compile.
        line: where it does not, counted from 0.
        in_string: the text ends inside a string of three quotes.
    """

    tree: ast.Module | None
    line: int = 0
    in_string: bool = False


@functools.lru_cache(maxsize=1024)
def parsed(code: str) -> Parsed:
    """What the compiler says of a text. Never fails.

    >>> parsed("x = 1").tree is None, parsed("x = 1\\ny = (").line, parsed('x = \"\"\"').in_string
    (False, 1, True)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            compile(code, "<program>", "exec", dont_inherit=True)  # finds what the parser does not, such as `return` outside a function
            return Parsed(tree)
    except SyntaxError as error:
        return Parsed(None, max(0, (error.lineno or 1) - 1), "unterminated triple-quoted" in str(error.msg))
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return Parsed(None)


def parses(code: str) -> bool:
    """Whether text is Python with at least one statement."""
    tree = parsed(code).tree
    return tree is not None and bool(tree.body)


def normalised(code: str) -> str:
    """A program without comments, blank lines and formatting, so that equal programs are equal texts; as it is where it does not parse."""
    tree = parsed(code).tree
    if tree is None:
        return code.strip()
    try:
        return ast.unparse(tree)
    except RecursionError:
        return code.strip()


def prefix_that_parses(lines: Sequence[str]) -> int:
    """How many of the first lines are Python, cut where a statement at the left margin begins: no statement is ever cut in two.

    >>> prefix_that_parses(["def f(x):", "    return x", "I hope it helps."]), prefix_that_parses(["def f(x):", "    return ("])
    (2, 0)
    """
    end = min(len(lines), _LONGEST)
    while end > 0:
        result = parsed("\n".join(lines[:end]))
        if result.tree is not None:
            return end if result.tree.body else 0
        last = min(result.line, end - 1)
        end = next((place for place in range(last, 0, -1) if lines[place][:1].strip()), 0)
    return 0


def begins_python(line: str) -> bool:
    """Whether a line looks like the beginning of a statement."""
    return _START.match(line) is not None


def piece_at(lines: Sequence[str], start: int) -> tuple[str, int]:
    """The piece of Python that begins at a line, moved to the left margin, and the line after it; "" and `start` if there is none."""
    match = _START.match(lines[start])
    if match is None:
        return "", start
    if _PROMPT.match(lines[start]):
        return _session_at(lines, start)
    width = len(match["indent"])
    end = min(len(lines), start + _LONGEST)
    if width:
        end = next((n for n in range(start, end) if lines[n].strip() and not lines[n].startswith(match["indent"])), end)
    body = [line[width:] if line.strip() else "" for line in lines[start:end]]
    count = prefix_that_parses(body)
    while count and not body[count - 1].strip():
        count -= 1
    return "\n".join(body[:count]), start + count


def _session_at(lines: Sequence[str], start: int) -> tuple[str, int]:
    """What was typed into a console from a line on, without the prompts, up to the first output, and the line after that."""
    end = min(len(lines), start + _LONGEST)
    after = next((n for n in range(start, end) if not (_PROMPT.match(lines[n]) or re.match(r"\s+\S", lines[n]))), end)
    typed = [_PROMPT.sub("", line) for line in lines[start:after]]
    count = prefix_that_parses(typed)
    if count < len(typed):
        return "\n".join(typed[:count]), start + count
    shown = next((n for n in range(after, end) if not lines[n].strip() or re.match(r"\s*(?:>>>|```|~~~)", lines[n])), end)
    return "\n".join(typed), shown


def pieces(text: str) -> list[str]:
    """All pieces of Python in a text, in order.

    >>> pieces("So:\\nimport math\\nThen write\\n    def f(x):\\n        return x\\nand that is it.")
    ['import math', 'def f(x):\\n    return x']
    """
    lines, found, start, attempts = text.split("\n"), list[str](), 0, 0
    while start < len(lines) and attempts < _ATTEMPTS:
        piece, after = piece_at(lines, start)
        if piece:
            found.append(piece)
        elif _START.match(lines[start]):
            attempts += 1
        start = max(after, start + 1)
    return found


def as_python(text: str) -> str:
    """The Python of a block: as it stands where it compiles; else without what surrounds code in notebooks, consoles and prose.

    Args:
        text: of the block.

    Returns:
        "" where nothing in it compiles.
    """
    for form in (text, textwrap.dedent(text), _plain(text)):
        if parses(form):
            return form.strip("\n")
    return "\n".join(pieces(_plain(text)))


_COMMAND = re.compile(r"^(?:[!%]|\$ ).*$", re.MULTILINE)
_NOTEBOOK = re.compile(r"^[ \t]*(?:(?:In|Out) ?\[\d*\]|\.{3}):[ ]?", re.MULTILINE)


def _plain(text: str) -> str:
    """Text without a notebook's commands and numbers, HTML's escapes and odd blanks."""
    text = html.unescape(_COMMAND.sub("", _NOTEBOOK.sub("", text))).replace("\u00a0", " ").replace("\u200b", "").replace("\ufeff", "")
    return textwrap.dedent(text)
