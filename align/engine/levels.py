"""Attention of many rows to keys and values that they share: the prefix of all, the prompt of a few, each row's own tokens.

A level holds the keys and values of several groups of rows once a group. The rows' queries meet each level in one matrix product; one
softmax over all levels together gives what attention to the whole sequence would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

IMPLEMENTATION = "align_levels"
MAX_SCORES = 1 << 26  # attention scores that are kept at a time where they are written out


@dataclass(frozen=True)
class Level:
    """Keys and values that groups of rows share. R rows, G groups, L the longest group's tokens.

    Attributes:
        states: `[layers, 2, G, kv heads, L, dim]`; keys at 0, values at 1.
        positions: `[G, L]`, of each key in its sequence; -1 where there is none.
        group: `[R]`, each row's.
        members: `[G, M]`, each group's rows, filled up with row 0.
        place: `[R]`, where a row stands among its group's members.
    """

    states: Tensor
    positions: Tensor
    group: Tensor
    members: Tensor
    place: Tensor

    @classmethod
    def of(cls, parts: Sequence[Sequence[Tensor]], starts: Sequence[int], group: Sequence[int | None]) -> Level:
        """A level of groups.

        Args:
            parts: of each group, in pieces `[layers, 2, kv heads, tokens, dim]`; some group has one.
            starts: the position of each group's first token.
            group: each row's; None for a row that is empty.
        """
        like = next(piece for pieces in parts for piece in pieces)
        lengths = [sum(piece.shape[-2] for piece in pieces) for pieces in parts]
        layers, two, heads, _, dim = like.shape
        states = like.new_zeros(layers, two, len(parts), heads, max(lengths), dim)
        positions = torch.full((len(parts), max(lengths)), -1)
        for number, (pieces, start, length) in enumerate(zip(parts, starts, lengths, strict=True)):
            at = 0
            for piece in pieces:
                states[:, :, number, :, at : at + piece.shape[-2]] = piece
                at += piece.shape[-2]
            positions[number, :length] = torch.arange(start, start + length)
        rows: list[list[int]] = [[] for _ in parts]
        place = [0] * len(group)
        for row, its_group in enumerate(group):
            if its_group is not None:
                place[row] = len(rows[its_group])
                rows[its_group].append(row)
        members = pad_sequence([torch.tensor(mine or [0]) for mine in rows], batch_first=True)
        numbers = torch.tensor([its_group or 0 for its_group in group])
        device = like.device
        return cls(states, positions.to(device), numbers.to(device), members.to(device), torch.tensor(place, device=device))

    def scores(self, layer: int, queries: Tensor) -> Tensor:
        """`[R, kv heads, queries a kv head, dim]` → products with the keys of each row's group, `[R, kv heads, queries a kv head, L]`."""
        return self._of_groups(queries, self.states[layer, 0].transpose(-1, -2))

    def mixed(self, layer: int, weights: Tensor) -> Tensor:
        """`[R, kv heads, queries a kv head, L]` → the sums of the values, `[R, kv heads, queries a kv head, dim]`."""
        return self._of_groups(weights, self.states[layer, 1])

    def unfolded(self, layer: int, which: int) -> Tensor:
        """Each row's own copy of its group's keys (0) or values (1), `[R, kv heads, L, dim]`."""
        states = self.states[layer, which]
        return states.expand(len(self.group), -1, -1, -1) if len(states) == 1 else states[self.group]

    def _of_groups(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """The product of each row with its group's matrix: all rows of a group in one product."""
        (groups, most), (_, heads, queries, width) = self.members.shape, rows.shape
        if groups == len(rows) and most == 1:  # every row is a group of its own
            return (rows[self.members[:, 0]] @ matrices)[self.group]
        together = rows[self.members].transpose(1, 2).reshape(groups, heads, most * queries, width) @ matrices
        return together.view(groups, heads, most, queries, -1).transpose(1, 2)[self.group, self.place]


@dataclass
class Context:
    """What one forward's queries attend to.

    Attributes:
        levels: shared keys and values.
        positions: `[R, T]`, the queries' positions; -1 on padding.
        own: `[R, K]`, the positions of the rows' own keys; -1 where there is none.
        softcap: whether soft-capping is applied (transformers' sdpa leaves it out).
    """

    levels: Sequence[Level]
    positions: Tensor
    own: Tensor
    softcap: bool
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """Which keys, those of the levels first, each query sees: `[R, T, keys]`, bool. Padding sees all, so that it stays finite."""
        if window not in self._masks:
            keys = torch.cat([*(level.positions[level.group] for level in self.levels), self.own], 1)[:, None]
            queries = self.positions[:, :, None]
            seen = (keys >= 0) & (keys <= queries)
            if window is not None:
                seen &= keys > queries - window
            self._masks[window] = seen | (queries < 0)
        return self._masks[window]


class SlotCache(Cache):
    """The rows' own keys and values while they grow by a token a step: each row in a slot, at a length of its own."""

    def __init__(self, like: Tensor, slots: int, capacity: int) -> None:
        """Args: like, any keys and values `[layers, 2, kv heads, tokens, dim]`; slots; capacity, tokens a slot."""
        layers, two, heads, _, dim = like.shape
        self.states = like.new_zeros(layers, two, slots, heads, capacity, dim)
        self.lengths = torch.zeros(slots, dtype=torch.long, device=like.device)  # tokens that each slot holds before a step
        self.longest = 0  # tokens that the longest slot holds after it
        super().__init__(layers=[_SlotLayer(self, number) for number in range(layers)])

    def grow(self, slots: int, capacity: int) -> None:
        """Make room, keeping what is there."""
        layers, two, before, heads, held, dim = self.states.shape
        if slots > before or capacity > held:
            states = self.states.new_zeros(layers, two, max(slots, before), heads, max(capacity, held), dim)
            states[:, :, :before, :, :held] = self.states
            self.states = states

    def keep(self, slots: Sequence[int]) -> None:
        """Keep some slots only."""
        self.states = self.states[:, :, torch.tensor(slots, device=self.states.device)]


class _SlotLayer(DynamicLayer):
    """A layer of a `SlotCache`."""

    def __init__(self, cache: SlotCache, number: int) -> None:
        super().__init__()
        self._cache, self._number = cache, number
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token a row behind the row's own; returns all slots' keys and values up to the longest."""
        cache = self._cache
        keys, values = cache.states[self._number]
        rows = torch.arange(len(keys), device=keys.device)
        keys[rows, :, cache.lengths], values[rows, :, cache.lengths] = key_states[:, :, 0], value_states[:, :, 0]
        return keys[:, :, : cache.longest], values[:, :, : cache.longest]

    def get_seq_length(self) -> int:
        """Of the longest row, without the token that is being read."""
        return self._cache.longest - 1


def levels_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix_context: Context | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' interface: the queries of a `Context`, to its levels and to `key` and `value`, the rows' own."""
    if prefix_context is None or position_bias is not None or dropout:
        raise NotImplementedError("attention to levels needs a context, and knows neither position biases nor dropout")
    context, layer = prefix_context, module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    cap = softcap if context.softcap else None
    mask = context.mask(sliding_window)
    if query.shape[2] == 1:
        return _one_query(context.levels, layer, query, key, value, mask, scale, cap, s_aux), None
    keys = torch.cat([*(level.unfolded(layer, 0) for level in context.levels), key], 2)
    values = torch.cat([*(level.unfolded(layer, 1) for level in context.levels), value], 2)
    if cap is None and s_aux is None:
        out: Tensor = sdpa_attention_forward(module, query, keys, values, mask[:, None], scaling=scale, is_causal=False)[0]
        return out, None
    size = max(1, MAX_SCORES // (query.shape[0] * query.shape[1] * keys.shape[2]))
    parts = [
        _one_level(query[:, :, start : start + size], keys, values, mask[:, start : start + size], scale, cap, s_aux)
        for start in range(0, query.shape[2], size)
    ]
    return torch.cat(parts, 1), None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, levels_attention)


def _one_query(
    levels: Sequence[Level], layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """One query a row, `[R, heads, 1, dim]`, to levels and own keys `[R, kv heads, K, dim]`: `[R, 1, heads, dim]`."""
    rows, heads, _, dim = query.shape
    queries = query.reshape(rows, key.shape[1], -1, dim) * scale  # before the product, which could overflow in float16
    scores = torch.cat([*(level.scores(layer, queries) for level in levels), queries @ key.transpose(-1, -2)], -1)
    weights = _weights(scores, mask[:, None], cap, None if sinks is None else sinks.view(key.shape[1], -1, 1)).to(value.dtype)
    *shared, own = weights.split([*(level.states.shape[-2] for level in levels), key.shape[2]], -1)
    out = own @ value
    for level, part in zip(levels, shared, strict=True):
        out = out + level.mixed(layer, part)
    return out.reshape(rows, 1, heads, dim)


def _one_level(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, cap: float | None, sinks: Tensor | None) -> Tensor:
    """`[R, heads, T, dim]` to `[R, kv heads, K, dim]` with the scores written out: `[R, T, heads, dim]`."""
    rows, heads, length, dim = query.shape
    queries = query.reshape(rows, keys.shape[1], -1, length, dim) * scale
    scores = queries @ keys[:, :, None].transpose(-1, -2)
    weights = _weights(scores, mask[:, None, None], cap, None if sinks is None else sinks.view(keys.shape[1], -1, 1, 1))
    out = weights.to(values.dtype) @ values[:, :, None]
    return out.reshape(rows, heads, length, dim).transpose(1, 2)


def _weights(scores: Tensor, mask: Tensor, cap: float | None, sinks: Tensor | None) -> Tensor:
    """Attention weights, in float32 at least; a sink takes its share of them."""
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~mask, -torch.inf).to(torch.promote_types(scores.dtype, torch.float32))
    if sinks is None:
        return scores.softmax(-1)
    return torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], -1).softmax(-1)[..., :-1]
