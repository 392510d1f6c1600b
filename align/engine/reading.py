"""Reading prompts: what is known of them is taken from a `PrefixTree`, what several share is read once, the rest in batches by length."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from align.engine.attention.registry import softcapped
from align.engine.levels import IMPLEMENTATION, Context, Level
from align.engine.prefixes import PrefixTree, Tokens, shared_prefixes
from align.engine.tokenize import common_prefix

MIN_TOKENS_SAVED = 16  # tokens that reading a shared prefix apart must save
MAX_TOKENS_PER_FORWARD = {"cpu": 4096, "cuda": 16384}  # read in one forward, padding included


@dataclass(frozen=True)
class Read:
    """A prompt that was read: its keys and values in pieces, and the logits of its next token `[vocabulary]`."""

    pieces: tuple[Tensor, ...]
    logits: Tensor

    def span(self, start: int, end: int) -> list[Tensor]:
        """Keys and values of the tokens from `start` to `end`, in pieces `[layers, 2, kv heads, tokens, dim]`."""
        return _span(self.pieces, start, end)


class Reader:
    """Runs a causal LM's forwards on rows that share prefixes."""

    def __init__(self, model: Any, tree: PrefixTree) -> None:
        """Args: model, in evaluation mode, whose weights do not change while `tree` remembers; tree."""
        self._model, self._tree = model, tree
        self._config = model.config.get_text_config()
        self._softcap = softcapped(model)
        self.device = next(model.parameters()).device

    def read(self, prompts: Sequence[Tokens]) -> list[Read]:
        """Read prompts, none of them empty, and remember them."""
        for prefixes in shared_prefixes([prompt[:-1] for prompt in prompts], MIN_TOKENS_SAVED):
            self._read([prefix for prefix in prefixes if sum(map(_length, self._tree.match(prefix))) < len(prefix)])
        return self._read(prompts)

    def _read(self, sequences: Sequence[Tokens]) -> list[Read]:
        known = [self._tree.match(tokens[:-1]) for tokens in sequences]  # the last one is read again: its logits are wanted
        matched = [sum(map(_length, pieces)) for pieces in known]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]) - matched[i])
        reads: dict[int, Read] = {}
        while order:
            longest = len(sequences[order[0]]) - matched[order[0]]
            count = 0
            for i in order:
                longest = max(longest, len(sequences[i]) - matched[i])
                if count and (count + 1) * longest > MAX_TOKENS_PER_FORWARD.get(self.device.type, MAX_TOKENS_PER_FORWARD["cuda"]):
                    break
                count += 1
            part, order = order[:count], order[count:]
            states, logits = self._forward([sequences[i] for i in part], [known[i] for i in part], [matched[i] for i in part])
            for row, i in enumerate(part):
                own = states[:, :, row, :, states.shape[-2] - len(sequences[i]) + matched[i] :]
                self._tree.insert(sequences[i], matched[i], own)
                reads[i] = Read((*known[i], own), logits[row])
        return [reads[i] for i in range(len(sequences))]

    def _forward(self, sequences: Sequence[Tokens], known: Sequence[Sequence[Tensor]], matched: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read what is not known of some sequences: keys and values `[layers, 2, rows, kv heads, T, dim]`, left-padded; last logits."""
        new = [tokens[count:] for tokens, count in zip(sequences, matched, strict=True)]
        longest = max(map(len, new))
        ids = torch.tensor([[0] * (longest - len(tokens)) + list(tokens) for tokens in new], device=self.device)
        places = [
            [-1] * (longest - len(tokens) + count) + list(range(count, len(tokens)))
            for tokens, count in zip(sequences, matched, strict=True)
        ]
        positions = torch.tensor(places, device=self.device)
        cache = DynamicCache()
        logits = self.forward(ids, Context(_known_levels(sequences, known, matched), positions, positions, self._softcap), cache)
        return torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers]), logits

    @torch.no_grad()
    def forward(self, ids: Tensor, context: Context, cache: Any) -> Tensor:
        """One forward of tokens `[R, T]`; keys and values go to `cache`. Returns the last token's logits, `[R, vocabulary]`."""
        # A four-dimensional mask stops transformers from building one of its own; the attention reads the context.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
        with self._attention():
            out = self._model(
                input_ids=ids, attention_mask=mask, position_ids=context.positions.clamp(min=0), past_key_values=cache, use_cache=True,
                logits_to_keep=1, prefix_context=context,
            )  # fmt: skip
        return out.logits[:, -1]

    def decode(self, ids: Tensor, levels: Sequence[Level], positions: Tensor, own: Tensor, cache: Any) -> Tensor:
        """One token a row, `[R]`, at `positions` `[R]`, with own keys at `own` `[R, K]`: logits `[R, vocabulary]`."""
        return self.forward(ids[:, None], Context(levels, positions[:, None], own, self._softcap), cache)

    @contextlib.contextmanager
    def _attention(self) -> Iterator[None]:
        """The model's attention is ours for a while."""
        before = self._config._attn_implementation
        self._config._attn_implementation = IMPLEMENTATION
        try:
            yield
        finally:
            self._config._attn_implementation = before


def _known_levels(sequences: Sequence[Tokens], known: Sequence[Sequence[Tensor]], matched: Sequence[int]) -> list[Level]:
    """What is known of some sequences as levels: what all of them begin with once, the rest row by row."""
    if not any(matched):
        return []
    first, last = (choose(range(len(sequences)), key=lambda i: sequences[i][: matched[i]]) for choose in (min, max))
    shared = common_prefix(sequences[first][: matched[first]], sequences[last][: matched[last]]) if len(sequences) > 1 else 0
    levels = [Level.of([_span(known[first], 0, shared)], [0], [0] * len(sequences))] if shared else []
    if max(matched) > shared:
        parts = [_span(pieces, shared, count) for pieces, count in zip(known, matched, strict=True)]
        levels.append(Level.of(parts, [shared] * len(parts), range(len(parts))))
    return levels


def _span(pieces: Sequence[Tensor], start: int, end: int) -> list[Tensor]:
    """The tokens from `start` to `end` of consecutive pieces."""
    parts, at = [], 0
    for piece in pieces:
        length = _length(piece)
        if at < end and at + length > start:
            parts.append(piece[..., max(0, start - at) : end - at, :])
        at += length
    return parts


def _length(piece: Tensor) -> int:
    return piece.shape[-2]
