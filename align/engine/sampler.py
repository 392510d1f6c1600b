"""Sampling that reads nothing twice: prompts from a prefix tree, rows that come and go, one attention to what they share.

Rows are decoded side by side; one that ends makes room for the next at once. Each sample draws with uniform numbers of its own
seed, so that it is the same whatever stands beside it (up to rounding of the logits).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align.engine.generate import Drawing, StopTexts, end_tokens, uniform_numbers
from align.engine.levels import Level, SlotCache
from align.engine.prefixes import PrefixTree, Tokens
from align.engine.reading import Read, Reader
from align.engine.tokenize import common_prefix
from align.sampling import Sample, Sampling

MIN_SHARED_TOKENS = 64  # tokens that prompts must share to be kept as a family
FIRST_CAPACITY = 32  # tokens of a row's own that there is room for at first


@dataclass(frozen=True)
class Job:
    """Samples that are wanted of one prompt.

    Attributes:
        id: names the job.
        prompt: token ids, at least one.
        n: samples.
        seed: sample i is drawn with seed + i.
        longest: tokens of a sample at most.
    """

    id: str
    prompt: Tokens
    n: int
    seed: int
    longest: int


class PrefixSampler:
    """Samples from a causal LM whose weights stay as they are while prefixes are kept."""

    def __init__(self, model: Any, tokenizer: Any, *, batch: int, budget: int) -> None:
        """Args: model, in evaluation mode; tokenizer; batch, rows at a time; budget, bytes of keys and values of prefixes to keep."""
        self._model, self._tokenizer, self._batch = model, tokenizer, batch
        self.tree = PrefixTree(budget)
        self.reader = Reader(model, self.tree)
        self._keeping = False

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """A context in which what one call has read is known to the next; otherwise it is forgotten when a call ends."""
        before, self._keeping = self._keeping, True
        try:
            yield
        finally:
            self._keeping = before
            if not before:
                self.tree.clear()

    def sample(self, jobs: Sequence[Job], sampling: Sampling) -> Iterator[tuple[str, list[Sample]]]:
        """Sample; yields each job's id and its samples as they are done.

        Args:
            jobs: with distinct ids.
            sampling: `max_new_tokens` does not count: each job has its own.
        """
        ends = frozenset(end_tokens(self._model, self._tokenizer, sampling))
        remember = self.tree if self._keeping else None
        run = _Run(self.reader, jobs, Drawing(sampling), StopTexts(sampling.stop, self._tokenizer), ends, self._batch, remember)
        try:
            while run.goes_on:
                yield from run.advance()
        finally:
            if not self._keeping:
                self.tree.clear()


@dataclass(eq=False)
class _Family:
    """Jobs whose prompts begin with the same tokens.

    Attributes:
        shared: how many.
        states: their keys and values in pieces, once a job of the family is at work.
    """

    shared: int
    states: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class _Group:
    """A job at work: the keys and values of its prompt behind what its family shares, and its samples as they end."""

    job: Job
    family: _Family
    states: list[Tensor]
    samples: dict[int, Sample] = field(default_factory=dict)


@dataclass(eq=False)
class _Row:
    """A sample at work."""

    group: _Group
    number: int
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


class _Run:
    """One call of `PrefixSampler.sample`."""

    def __init__(
        self, reader: Reader, jobs: Sequence[Job], draw: Drawing, stops: StopTexts, ends: frozenset[int], batch: int,
        remember: PrefixTree | None,
    ) -> None:  # fmt: skip
        self._reader, self._draw, self._stops, self._ends, self._batch, self._remember = reader, draw, stops, ends, batch, remember
        self._waiting = deque(_by_family(jobs))
        self._most = max((job.longest for job in jobs), default=0)
        self._slots: list[_Row | None] = []
        self._levels: list[Level] = []
        self._cache: SlotCache | None = None
        self._uniform = torch.empty(0, self._most, dtype=torch.float64, device=reader.device)

    @property
    def goes_on(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting) or any(self._slots)

    def advance(self) -> list[tuple[str, list[Sample]]]:
        """Let new rows in where there is room, or draw one token more of each row; returns the jobs that are done by this."""
        active = sum(row is not None for row in self._slots)
        admitted = self._next_jobs(self._batch - active, active)
        if admitted:
            return self._admit(admitted)
        if not self._waiting and active <= 0.75 * len(self._slots):
            self._drop_empty_slots()
        return self._step()

    def _next_jobs(self, room: int, active: int) -> list[tuple[Job, _Family]]:
        """The jobs to let in: as many as there is room for, once an eighth of the batch is free."""
        admitted: list[tuple[Job, _Family]] = []
        if active and room < self._batch // 8:
            return admitted
        while self._waiting and (self._waiting[0][0].n <= room or (not active and not admitted)):
            admitted.append(self._waiting.popleft())
            room -= admitted[-1][0].n
        return admitted

    def _admit(self, admitted: Sequence[tuple[Job, _Family]]) -> list[tuple[str, list[Sample]]]:
        """Read the prompts of jobs, give their samples slots, and draw their first tokens."""
        reads = self._reader.read([job.prompt for job, _ in admitted])
        free = deque(slot for slot, row in enumerate(self._slots) if row is None)
        slots: list[int] = []
        for (job, family), read in zip(admitted, reads, strict=True):
            if not family.states:
                family.states = read.span(0, family.shared)
            group = _Group(job, family, read.span(family.shared, len(job.prompt)))
            for number in range(job.n):
                if not free:
                    free.append(len(self._slots))
                    self._slots.append(None)
                slots.append(free.popleft())
                self._slots[slots[-1]] = _Row(group, number)
        self._make_room(reads[0], slots)
        self._regroup()
        logits = torch.stack([read.logits for read in reads])
        counts = torch.tensor([job.n for job, _ in admitted], device=logits.device)
        return self._accept(slots, *self._draw(logits.repeat_interleave(counts, 0), self._uniform[slots, 0]))

    def _make_room(self, read: Read, slots: Sequence[int]) -> None:
        """Tensors for all slots; new rows' uniform numbers, and no tokens of their own yet."""
        if self._cache is None:
            self._cache = SlotCache(read.pieces[0], len(self._slots), min(FIRST_CAPACITY, self._most))
        self._cache.grow(len(self._slots), 0)
        more = len(self._slots) - len(self._uniform)
        self._uniform = torch.nn.functional.pad(self._uniform, (0, 0, 0, more)) if more > 0 else self._uniform
        rows = [self._slots[slot] for slot in slots]
        numbers = np.stack([uniform_numbers(row.group.job.seed + row.number, self._most) for row in rows if row is not None])
        self._uniform[slots] = torch.from_numpy(numbers).to(self._uniform.device)

    def _regroup(self) -> None:
        """Build the levels anew, of the families and prompts whose rows are at work."""
        groups = list(dict.fromkeys(row.group for row in self._slots if row is not None))
        families = list(dict.fromkeys(group.family for group in groups))
        group_of_row: list[int | None] = [None if row is None else groups.index(row.group) for row in self._slots]
        prompts = Level.of([group.states for group in groups], [group.family.shared for group in groups], group_of_row)
        for number, group in enumerate(groups):  # views, so that nothing is kept twice
            group.states = [prompts.states[:, :, number, :, : len(group.job.prompt) - group.family.shared]]
        self._levels = [prompts]
        if any(family.shared for family in families):
            family_of_group = [families.index(group.family) for group in groups]
            family_of_row = [None if group is None else family_of_group[group] for group in group_of_row]
            shared = Level.of([family.states for family in families], [0] * len(families), family_of_row)
            self._levels = [shared, prompts]

    def _drop_empty_slots(self) -> None:
        """Make the batch as small as the rows at work."""
        assert self._cache is not None
        kept = [slot for slot, row in enumerate(self._slots) if row is not None]
        self._slots = [self._slots[slot] for slot in kept]
        self._cache.keep(kept)
        self._uniform = self._uniform[kept]
        self._regroup()

    def _step(self) -> list[tuple[str, list[Sample]]]:
        """Read every row's last token, and draw its next."""
        cache, device = self._cache, self._reader.device
        assert cache is not None
        slots = [slot for slot, row in enumerate(self._slots) if row is not None]
        held = [0 if row is None else len(row.tokens) - 1 for row in self._slots]
        prompts = torch.tensor([-1 if row is None else len(row.group.job.prompt) for row in self._slots], device=device)
        ids = torch.tensor([0 if row is None else row.tokens[-1] for row in self._slots], device=device)
        lengths = torch.tensor(held, device=device)
        cache.longest = max(held) + 1
        if cache.longest > cache.states.shape[-2]:
            cache.grow(0, min(self._most, 2 * cache.states.shape[-2]))
        cache.lengths = lengths
        offsets = torch.arange(cache.longest, device=device)
        own = torch.where(offsets <= lengths[:, None], prompts[:, None] + offsets, -1)
        positions = torch.where(prompts < 0, -1, prompts + lengths)
        logits = self._reader.decode(ids, self._levels, positions, own, cache)
        uniform = self._uniform.gather(1, (lengths + 1)[:, None].clamp(max=self._most - 1))[:, 0]
        if len(slots) < len(self._slots):
            logits, uniform = logits[slots], uniform[slots]
        return self._accept(slots, *self._draw(logits, uniform))

    def _accept(self, slots: Sequence[int], tokens: Tensor, logps: Tensor) -> list[tuple[str, list[Sample]]]:
        """Append a token to each row; rows that end leave their slots. Returns the jobs that are done by this."""
        rows = [row for row in (self._slots[slot] for slot in slots) if row is not None]
        for row, token, logp in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
            row.tokens.append(token)
            row.logps.append(logp)
        hits = self._stops.hit([row.tokens[-self._stops.window :] for row in rows])
        done = []
        for slot, row, hit in zip(slots, rows, hits, strict=True):
            job = row.group.job
            stopped = hit or row.tokens[-1] in self._ends
            if not stopped and len(row.tokens) < job.longest:
                continue
            self._leave(slot, row)
            row.group.samples[row.number] = Sample(tuple(row.tokens), tuple(row.logps), "stop" if stopped else "length")
            if len(row.group.samples) == job.n:
                done.append((job.id, [row.group.samples[number] for number in range(job.n)]))
        return done

    def _leave(self, slot: int, row: _Row) -> None:
        """Empty a slot; what was read of the row goes to the prefix tree, for prompts that go on from it."""
        self._slots[slot] = None
        read = len(row.tokens) - 1  # the last token was drawn, not read
        if self._remember is not None and self._cache is not None and read:
            prompt = row.group.job.prompt
            self._remember.insert(prompt + tuple(row.tokens[:read]), len(prompt), self._cache.states[:, :, slot, :, :read])


def _by_family(jobs: Sequence[Job]) -> list[tuple[Job, _Family]]:
    """Jobs with their families: those whose prompts share much stand together, the shortest first; the rest by length behind them."""
    ordered = sorted(jobs, key=lambda job: (job.prompt, job.id))
    alone: list[Job] = []
    in_families: list[tuple[Job, _Family]] = []
    start = 0
    while start < len(ordered):
        first, end = ordered[start].prompt, start + 1
        nearest = common_prefix(first, ordered[end].prompt) if end < len(ordered) else 0
        least = max(MIN_SHARED_TOKENS, nearest // 2)
        while end < len(ordered) and common_prefix(first, ordered[end].prompt) >= least:
            end += 1
        members = sorted(ordered[start:end], key=lambda job: (len(job.prompt), job.id))
        if len(members) == 1:
            alone += members
        else:
            shared = min(common_prefix(first, ordered[end - 1].prompt), len(members[0].prompt) - 1)
            family = _Family(shared)
            in_families += [(job, family) for job in members]
        start = end
    no_family = _Family(0)
    return in_families + [(job, no_family) for job in sorted(alone, key=lambda job: (len(job.prompt), job.id))]
