"""From what a model wrote to the program that is run."""

from __future__ import annotations

import ast
import re

from data_pipelines.code_execution.problems import Problem
from data_pipelines.code_execution.sandbox.inside.assertions import parse

_FENCED = re.compile(r"```[ \t]*[A-Za-z0-9+]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_LONGEST = 400  # lines of prose and code that are searched for the longest piece that parses


def program_of(response: str, problem: Problem, chat: bool) -> str:
    """The program in a response: the last fenced block, else the longest piece that parses.

    Args:
        response: as the model wrote it.
        problem: what was asked.
        chat: the model was told the problem; otherwise it went on from the problem's `prefix`.

    Returns:
        A whole program, with what the problem gives to every program in front of it. Never fails: what does not parse is
        judged as it is.
    """
    blocks = _FENCED.findall(response)
    if blocks:
        good = [block for block in blocks if parses(block)]
        code = (good or blocks)[-1]
    elif problem.prefix and not chat:
        return continued(problem.prefix, response)
    else:
        code = longest_that_parses(response)
    return f"{problem.support}\n\n{code}" if problem.support else code


def continued(prefix: str, response: str) -> str:
    """A prefix with as many lines of the response as parse together with it; with all of them if none do."""
    lines = response.split("\n")
    for count in range(len(lines), 0, -1):
        program = prefix + "\n".join(lines[:count])
        if parses(program):
            return program
    return prefix + response


def longest_that_parses(text: str) -> str:
    """The longest run of lines that is Python and more than a bare expression; the text itself if there is none.

    >>> longest_that_parses("Sure! Here it is:\\ndef f(x):\\n    return x\\nI hope it helps you.")
    'def f(x):\\n    return x'
    """
    if parses(text):
        return text
    lines = text.split("\n")[:_LONGEST]
    starts = [place for place, line in enumerate(lines) if re.match(r"(def|class|import|from|@|async def|[A-Za-z_]\w* *=)", line)]
    best = ""
    for start in starts:
        for end in range(len(lines), start, -1):
            piece = "\n".join(lines[start:end])
            if len(piece) <= len(best):
                break
            if parses(piece):
                best = piece
                break
    return best or text


def parses(code: str) -> bool:
    """Whether text is Python with at least one statement."""
    tree = _parsed(code)
    return tree is not None and bool(tree.body)


def normalised(code: str) -> str:
    """A program without comments, blank lines and formatting, so that equal programs are equal texts; as it is where it does not parse."""
    tree = _parsed(code)
    return code.strip() if tree is None else ast.unparse(tree)


def _parsed(code: str) -> ast.Module | None:
    try:
        return parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
