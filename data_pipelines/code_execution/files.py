"""A program and its tests from files, for `align exec`."""

from __future__ import annotations

import json
from pathlib import Path

from align.errors import AlignError
from data_pipelines.code_execution.formats import own
from data_pipelines.code_execution.sandbox import Assertions, Tests
from data_pipelines.code_execution.sandbox.inside.assertions import read_json


def read_program(path: Path) -> str:
    """A program's text.

    Raises:
        AlignError: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AlignError(f"{path}: {getattr(error, 'strerror', None) or 'this is no text'}") from error


def read_tests(path: Path, entry_point: str | None = None) -> Tests:
    """Tests: a .py file with assertions, or a .json file with `{"calls": …}`, `{"outputs": …}` or a whole problem of our own format.

    Raises:
        AlignError: there is no such file, it does not parse, it asserts nothing, or calls have no entry point.
    """
    text = read_program(path)
    try:
        if path.suffix != ".json":
            return Assertions(text, entry_point)
        content = read_json(text)
        if not isinstance(content, dict):
            raise AlignError("expected an object with 'calls', 'outputs' or 'tests'")
        problem = {"prompt": "-", "tests": content, **({"entry_point": entry_point} if entry_point else {})}
        tests = own({**problem, **content} if "tests" in content else problem).tests
        assert tests is not None
        return tests
    except json.JSONDecodeError as error:
        raise AlignError(f"{path}: not JSON: {error.msg}, line {error.lineno}") from error
    except AlignError as error:
        raise AlignError(f"{path}: {error}") from error
