"""A stage: a function, its settings, its inputs; and the task that the stage's process is handed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from align.errors import AlignError
from align.files import read_json, write_json
from align.runs.journal import WHOLE, Shard


@dataclass(frozen=True)
class Output:
    """A file or folder that another stage of the run makes: `stage` by name, `path` below its folder."""

    stage: str
    path: str


@dataclass(frozen=True)
class External:
    """An input from outside the run: a local path (known by its content) or a name on the hub (known by name)."""

    source: str


Input = Output | External


class StageSettings:
    """Base of the settings of one kind of stage, a frozen dataclass of JSON types; a key that it does not have is an error."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def as_json(self) -> dict[str, Any]:
        """The form that a stage keeps."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The typed form of what a stage keeps.

        Raises:
            AlignError: these are not settings of this kind, as when another version of align wrote them.
        """
        from pydantic import TypeAdapter, ValidationError  # takes a tenth of a second

        try:
            return TypeAdapter(cls).validate_python(dict(settings))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AlignError(f"the setting '{where}' does not fit this version of align: {first['msg']}") from error


Settings = TypeVar("Settings", bound=StageSettings)


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: also its folder below the run's ("round-1/sample").
        function: "module:function", called in a process of its own with a `Task`.
        settings: everything that the outcome depends on, in JSON types: `StageSettings.as_json()`.
        inputs: what it reads.
        resources: what the outcome does not depend on: `processes` (how many share the work, each as a `Shard`),
            `accelerate` (a config file: start with accelerate launch), `saves_when_asked` (it looks for the stop file itself),
            `process` (a name: stages that follow each other and name the same run in one process, so that they can share what is
            dear to start), and what the function itself wants to know.
    """

    name: str
    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a stage's function gets.

    Attributes:
        folder: where its outputs go. What lies in `scratch/` is deleted once the stage is done.
        inputs: each input's path, or its name on the hub.
        settings, resources, shard: see `Stage`.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    resources: Mapping[str, Any] = field(default_factory=dict)
    shard: Shard = WHOLE

    def path(self, name: str) -> Path:
        """An input as a path."""
        return Path(self.inputs[name])

    def read(self, kind: type[Settings]) -> Settings:
        """The settings in their typed form; raises AlignError as `StageSettings.of`."""
        return kind.of(self.settings)


def log_of(folder: Path, shard: Shard, rank: str = "0") -> Path:
    """The log of one of a stage's processes: `log.txt` where there is one process, else one for each shard and rank.

    >>> log_of(Path("sample"), Shard(3, 16)).name, log_of(Path("train"), WHOLE, "1").name, log_of(Path("train"), WHOLE).name
    ('log-3-of-16.txt', 'log-rank-1.txt', 'log.txt')
    """
    if shard.count > 1:
        return folder / f"log-{shard.index}-of-{shard.count}.txt"
    return folder / ("log.txt" if rank == "0" else f"log-rank-{rank}.txt")


SPECIFICATION = "stage.json"
FINISHED = "scratch/finished"  # left by a process of several stages when it is through with one of them


def write_specification(task: Task, function: str, key: str) -> None:
    """Put a stage's task into its folder, where its processes read it."""
    content = {
        "name": task.name, "key": key, "function": function, "settings": dict(task.settings), "inputs": dict(task.inputs),
        "resources": dict(task.resources),
    }  # fmt: skip
    write_json(task.folder / SPECIFICATION, content)


def read_specification(folder: Path, shard: Shard) -> tuple[str, Task]:
    """The function's name and the task that `write_specification` left.

    Raises:
        AlignError: there is none, or it is damaged.
    """
    content = read_json(folder / SPECIFICATION, is_specification)
    if content is None:
        raise AlignError(f"{folder / SPECIFICATION} is not there: run the recipe again, which writes it")
    return content["function"], Task(content["name"], folder, content["settings"], content["inputs"], content["resources"], shard)


def is_specification(content: Any) -> bool:
    """Whether this is what `write_specification` writes."""
    types = {"name": str, "key": str, "function": str, "settings": dict, "inputs": dict, "resources": dict}
    return isinstance(content, dict) and all(isinstance(content.get(name), type) for name, type in types.items())


class Progress:
    """Leaves how far a stage's process is in `progress-SHARD.json`, for `align status`; at most once a second."""

    def __init__(self, task: Task, total: int, done: int = 0, unit: str = "prompts") -> None:
        """Args: the task; units in this shard, how many were done before, and what they are called."""
        self._path = task.folder / f"progress-{task.shard.index}-of-{task.shard.count}.json"
        self._state = {"done": done, "total": total, "unit": unit}
        self._last = 0.0

    def advance(self, units: int, **more: float) -> None:
        """Count finished units; `more` are numbers to show, such as tokens a second."""
        self._state["done"] += units  # type: ignore[operator]
        self._state |= more
        if time.monotonic() - self._last > 1 or self._state["done"] == self._state["total"]:
            self._last = time.monotonic()
            with contextlib.suppress(OSError):  # what is shown of a run is no reason to end it
                write_json(self._path, self._state)


@dataclass(frozen=True)
class HowFar:
    """How far a stage is, summed over its processes: units that are done, of how many, what they are called, and further numbers."""

    done: int
    total: int
    unit: str
    more: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """In words.

        >>> str(HowFar(120, 400, "prompts", {"tokens_per_second": 812, "without an answer": 3}))
        '120 of 400 prompts, 3 without an answer, 812 tokens/s'
        """
        words = [f"{self.done:,} of {self.total:,} {self.unit}"]
        words += [f"{number:,} {name}" for name, number in self.more.items() if isinstance(number, int) and name != _SPEED]
        words += [f"{name} {number:.2f}" for name, number in self.more.items() if isinstance(number, float)]
        return ", ".join([*words, *([f"{self.more[_SPEED]:,} tokens/s"] if self.more.get(_SPEED) else [])])


_SPEED = "tokens_per_second"


def how_far(folder: Path) -> HowFar | None:
    """What the processes of a stage have left of their progress; None where they have left nothing yet."""
    parts = []
    for path in sorted(folder.glob("progress-*.json")):
        with contextlib.suppress(OSError, ValueError):  # it is just being taken away
            parts.append(json.loads(path.read_text(encoding="utf-8")))
    if not parts:
        return None
    names = dict.fromkeys(name for part in parts for name in part if name not in ("done", "total", "unit"))
    more = {name: sum(part.get(name, 0) for part in parts) for name in names}
    return HowFar(sum(part["done"] for part in parts), sum(part["total"] for part in parts), parts[0]["unit"], more)
