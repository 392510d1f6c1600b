"""The columns of preference sets that are read, and the mapping of others to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from align.errors import AlignError, nearest

ANSWERS = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
TURNS = ("conversations", "conversation", "messages")
QUESTIONS = ("question", "instruction", "query", "input")  # the first that says something counts
SYSTEMS = ("system", "system_prompt")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
TARGETS = (
    "prompt", "chosen", "rejected", "question", "instruction", "input", "system", "history", "conversations", "weight", "margin", "id",
    "tools", "chat_template_kwargs", "score_chosen", "score_rejected",
)  # fmt: skip
"""What a column can be mapped to."""
_READ = {*TARGETS, *(name for pair in ANSWERS for name in pair), *TURNS, *QUESTIONS, *SYSTEMS, *MEDIA}
_OPTIONAL = {"system", "input", "history", "weight", "margin", "id", "tools", "chat_template_kwargs", "score_chosen", "score_rejected"}


class ColumnsError(AlignError):
    """A record's columns are those of no form that is read."""


def renamed(record: Mapping[str, Any], columns: Mapping[str, str | None] | None) -> Mapping[str, Any]:
    """The record under the names that are read.

    Args:
        record: as the data set has it.
        columns: our name → the data set's; None: the data set has no such column, even if one bears the name.

    Raises:
        ColumnsError: it lacks the column of its prompt or of a response; names the nearest.
    """
    if not columns:
        return record
    check_sources({target: source for target, source in columns.items() if target not in _OPTIONAL}, record)
    moved = {source for source in columns.values() if source is not None}
    rest = {key: value for key, value in record.items() if key not in columns and key not in moved}
    if columns.get("prompt", "prompt") is None:  # no column of another name holds it either
        rest = {key: value for key, value in rest.items() if key in _READ}
    return {**rest, **{target: record[source] for target, source in columns.items() if source is not None and source in record}}


def check_sources(columns: Mapping[str, str | None] | None, present: Iterable[Any]) -> None:
    """See that every column that a mapping names is there.

    Raises:
        ColumnsError: one is not; names the nearest.
    """
    names = {str(name) for name in present}
    for target, source in (columns or {}).items():
        if source is not None and source not in names:
            raise ColumnsError(f"columns.{target} is '{source}', which is no column of the data: {nearest(source, names)}")


def check_targets(columns: Mapping[str, Any] | None) -> None:
    """See that a mapping names what is read.

    Raises:
        AlignError: a target that is none; names the nearest.
    """
    for target in columns or ():
        if target not in TARGETS:
            raise AlignError(f"columns.{target}: nothing of a pair has this name: {nearest(target, TARGETS)}")
