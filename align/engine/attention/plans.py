"""What attention backends read of a row's structure, as index tensors: built on the CPU, once per row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from align.engine.layout import Layout

BLOCK = 128
"""Tokens of a block of FlexAttention's masks."""


class Segment(NamedTuple):
    """Queries [query_start, query_end) of the row attend to keys [key_start, key_end)."""

    query_start: int
    query_end: int
    key_start: int
    key_end: int


class Runs(NamedTuple):
    """Many runs of queries with a run of keys each, one after the other, for one variable-length call.

    Attributes:
        query_bounds, key_bounds: `[runs + 1]` int32, where each run begins.
        longest_queries, longest_keys: tokens of the longest run.
    """

    query_bounds: Tensor
    key_bounds: Tensor
    longest_queries: int
    longest_keys: int


class Level(NamedTuple):
    """The spans of a level of the tree and what is below them.

    Attributes:
        queries: `[Q]`, row indices of the descendants, span after span.
        keys: `[K]`, row indices of the spans' own tokens.
        runs: their bounds.
    """

    queries: Tensor
    keys: Tensor
    runs: Runs


class Paths(NamedTuple):
    """Every span against its path: `keys` `[K]` are row indices of the paths' tokens; the queries are the row as it stands."""

    keys: Tensor
    runs: Runs


class Levels(NamedTuple):
    """The cascade: every span attends causally to itself, and to each of its ancestors, level by level.

    Attributes:
        own: the spans themselves, the row as it stands.
        below: level by level.
    """

    own: Runs
    below: tuple[Level, ...]


class Blocks(NamedTuple):
    """A `BlockMask`'s tensors, `[1, 1, blocks]` and `[1, 1, blocks, blocks]` int32: which blocks are partly or fully allowed."""

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor
    q_num_blocks: Tensor
    q_indices: Tensor
    full_q_num_blocks: Tensor
    full_q_indices: Tensor


def spans_with_descendants(layout: Layout) -> list[Segment]:
    """Of each span that has descendants: these, one interval, and the span. Ancestors come before their descendants."""
    return [Segment(s.end, s.subtree_end, s.start, s.end) for s in layout.spans if s.subtree_end > s.end]


def levels(layout: Layout) -> Levels:
    """The plan of the cascade."""
    depth: list[int] = []
    by_level: dict[int, list[Segment]] = {}
    for span in layout.spans:
        depth.append(depth[span.parent] + 1 if span.parent >= 0 else 0)
        if span.subtree_end > span.end:
            by_level.setdefault(depth[-1], []).append(Segment(span.end, span.subtree_end, span.start, span.end))
    bounds, longest = _bounds([span.end - span.start for span in layout.spans])
    own = Runs(bounds, bounds, longest, longest)
    return Levels(own, tuple(_level(by_level[level]) for level in sorted(by_level)))


def paths(layout: Layout) -> Paths:
    """The plan of gathered paths: every span's queries against all keys from the root to its own end.

    Along a path, index is position: causal attention, aligned at the end, and windows are exact.
    """
    keys, totals = [], []
    path_of: list[np.ndarray] = []
    for span in layout.spans:
        own = np.arange(span.start, span.end)
        path = np.concatenate([path_of[span.parent], own]) if span.parent >= 0 else own
        path_of.append(path)
        keys.append(path)
        totals.append(len(path))
    query_bounds, longest_queries = _bounds([span.end - span.start for span in layout.spans])
    key_bounds, longest_keys = _bounds(totals)
    index = torch.from_numpy(np.concatenate(keys)) if keys else torch.zeros(0, dtype=torch.long)
    return Paths(index, Runs(query_bounds, key_bounds, longest_queries, longest_keys))


def blocks(layout: Layout, window: int | None) -> Blocks:
    """The block mask: by each block's smallest and largest subtree end, and by positions where there is a window.

    A block may be called partly allowed though nothing in it is: the mask inside of blocks is exact.
    """
    count = -(-layout.length // BLOCK)
    ends = _padded(layout.subtree_end.cpu().numpy(), count)
    least, most = ends.min(1, where=ends >= 0, initial=layout.length), ends.max(1)
    index = np.arange(count)
    first, last = index[:, None] * BLOCK, np.minimum((index[:, None] + 1) * BLOCK, layout.length)
    below = index[None] < index[:, None]
    partly_allowed, fully_allowed = below & (most[None] > first), below & (least[None] >= last)
    if window is not None:
        positions = _padded(layout.position_ids.cpu().numpy(), count)
        low, high = positions.min(1, where=positions >= 0, initial=layout.length), positions.max(1)
        partly_allowed &= low[:, None] - high[None] < window
        fully_allowed &= high[:, None] - low[None] < window
    partly = (partly_allowed & ~fully_allowed) | (index[None] == index[:, None])
    fully_allowed &= partly_allowed
    return Blocks(*_ordered(partly), *_ordered(fully_allowed), *_ordered(partly.T), *_ordered(fully_allowed.T))


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """`[blocks, BLOCK]`, −1 after the end."""
    padded = np.full(count * BLOCK, -1, dtype=np.int64)
    padded[: len(values)] = values
    return padded.reshape(count, BLOCK)


def _ordered(allowed: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of each row, how many entries are true, and their columns first, in order."""
    columns = np.argsort(~allowed, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(allowed.sum(1).astype(np.int32))[None, None], torch.from_numpy(columns)[None, None]


def _level(segments: list[Segment]) -> Level:
    queries = np.concatenate([np.arange(s.query_start, s.query_end) for s in segments])
    keys = np.concatenate([np.arange(s.key_start, s.key_end) for s in segments])
    query_bounds, longest_queries = _bounds([s.query_end - s.query_start for s in segments])
    key_bounds, longest_keys = _bounds([s.key_end - s.key_start for s in segments])
    runs = Runs(query_bounds, key_bounds, longest_queries, longest_keys)
    return Level(torch.from_numpy(queries), torch.from_numpy(keys), runs)


def _bounds(lengths: list[int]) -> tuple[Tensor, int]:
    bounds = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=bounds[1:])
    return torch.from_numpy(bounds), max(lengths, default=0)
