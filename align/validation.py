"""What pydantic finds wrong with a user's file, in one sentence that names the key."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from align.errors import nearest

OF_A_UNION = "one of: "
"""What the tags of a union's classes begin with; they are no part of a key."""


def first_problem(error: ValidationError, where: str, root: type[BaseModel]) -> str:
    """A validation error as one sentence: file, key, what is wrong, the nearest right key.

    Args:
        error: its first problem is told.
        where: the file.
        root: what was validated.
    """
    problem = error.errors()[0]
    place = tuple(part for part in problem["loc"] if not str(part).startswith(OF_A_UNION))
    same = [p["msg"] for p in error.errors() if p["loc"][:-1] == problem["loc"][:-1] and p["input"] == problem["input"]]
    if len(same) > 1 and place[-1] not in _keys_at(root, [str(part) for part in place[:-1]]):  # a complaint for each type it may have
        return f"{where}: {'.'.join(map(str, place[:-1]))} is {problem['input']!r}: {', or '.join(same)}"
    if not place:
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    *above, last = [str(part) for part in place]
    key = ".".join([*above, last])
    if problem["type"] == "extra_forbidden":
        return f"{where}: {key} is not a key: {nearest(last, _keys_at(root, above))}"
    if problem["type"] == "missing":
        return f"{where}: {key} is missing"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        blank = " (is there a blank after the colon?)" if isinstance(problem["input"], str) and ":" in problem["input"] else ""
        return f"{where}: {key} is {problem['input']!r}: expected a section, keys with values below `{last}:`{blank}"
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):  # of a section as a whole: the sentence names the key
        return f"{where}: {key}: {said}"
    return f"{where}: {key} is {problem['input']!r}: {said}"


def _keys_at(root: type[BaseModel], above: list[str]) -> list[str]:
    section: Any = root
    for part in above:
        if part not in section.model_fields:  # a place in a list
            continue
        annotation = section.model_fields[part].annotation
        options = [annotation, *typing.get_args(annotation)]
        below = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not below:
            return []
        section = below[0]
    return list(section.model_fields)
