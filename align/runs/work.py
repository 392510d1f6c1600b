"""The units of work of a stage's process: what is left of them, in batches, journalled as they finish, with progress left to be shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from align.runs.journal import Journal, own_batches, read_journal
from align.runs.stage import Progress, Task


class _HasId(Protocol):
    @property
    def id(self) -> str | None: ...


Unit = TypeVar("Unit", bound=_HasId)


@dataclass(frozen=True)
class Finished:
    """What came of some units.

    Attributes:
        records: (id, record in JSON types) of each.
        tokens: how many the model generated for them, shown as tokens per second.
        shown: further counts to be shown, summed over the stage.
    """

    records: Iterable[tuple[str, Any]]
    tokens: int = 0
    shown: Mapping[str, int] = field(default_factory=dict)


class Work(Generic[Unit]):
    """Units of which a process does its share, each once, whatever was interrupted before.

    Attributes:
        done: ids of the units that were finished before, by whichever process.
        batches: those of this process that are not finished. One that is finished in part is there whole: what stands together in a
            batch depends on nothing but the units (see `own_batches`).
    """

    def __init__(self, task: Task, output: str, units: Sequence[Unit], batch: int, unit: str = "prompts") -> None:
        """
        Args:
            task: of the stage.
            output: the journal, a folder below the stage's.
            units: all of the stage, in the same order in each of its processes.
            batch: units per batch.
            unit: what they are called, in the plural.
        """
        self._task, self._folder, self._unit = task, task.folder / output, unit
        self.done = set(read_journal(self._folder))
        self.batches = list(own_batches(units, batch, self.done, task.shard))
        mine = [unit for batch in own_batches(units, batch, set(), task.shard) for unit in batch]
        self._total, self._before = len(mine), sum(unit.id in self.done for unit in mine)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left for this process."""
        return not self.batches

    def map(self, do: Callable[[list[Unit]], Finished]) -> None:
        """Do every batch that is left."""
        self.write(do(batch) for batch in self.batches)

    def write(self, pieces: Iterable[Finished]) -> None:
        """Journal what is finished, piece by piece, where the order of the units is not that of the batches."""
        if self.is_finished:
            return
        progress = Progress(self._task, self._total, self._before, self._unit)
        journal = Journal(self._folder, self._task.shard)
        started, tokens, shown = time.monotonic(), 0, dict[str, int]()
        for piece in pieces:
            new = [(id, record) for id, record in piece.records if id not in self.done]
            journal.append(new)
            tokens += piece.tokens
            shown = {name: shown.get(name, 0) + count for name, count in piece.shown.items()}
            rate = {"tokens_per_second": round(tokens / (time.monotonic() - started))} if tokens else {}
            progress.advance(len(new), **shown, **rate)
        journal.close()
