"""Keys and values of token prefixes in a radix tree, within a budget of bytes: what was read once is not read again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.engine.tokenize import common_prefix

Tokens = tuple[int, ...]


@dataclass(eq=False)
class _Node:
    """A run of tokens that follows its parent's, with their keys and values `[layers, 2, heads, tokens, dim]`."""

    tokens: Tokens
    states: Tensor
    parent: _Node | None
    used: int
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixTree:
    """A radix tree over token ids; the leaves that were used longest ago go first when the budget is exceeded.

    Keys and values are tensors `[layers, 2, heads, tokens, dim]`, keys at 0 and values at 1 of the second dimension.
    """

    def __init__(self, budget: int) -> None:
        """Args: budget, bytes of keys and values to keep at most."""
        self._budget = budget
        self._clock = itertools.count()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._root = _Node((), torch.empty(0), None, 0)
        self.bytes = 0

    def match(self, tokens: Tokens) -> list[Tensor]:
        """The keys and values of the longest known beginning of `tokens`, in pieces: views, valid whatever is forgotten later."""
        return [node.states[..., :count, :] for node, count in self._walk(tokens)]

    def insert(self, tokens: Tokens, start: int, states: Tensor) -> None:
        """Remember the keys and values of `tokens[start:]`; nothing happens where those of `tokens[:start]` are not known.

        Args:
            tokens: from the first token of the sequence on.
            start: where `states` begins.
            states: copied, as far as they are new.
        """
        walked = self._walk(tokens)
        known = sum(count for _, count in walked)
        if known < start or known == len(tokens):
            return
        parent = self._root
        if walked:
            parent, count = walked[-1]
            if count < len(parent.tokens):
                parent = self._split(parent, count)
        new = states[..., known - start :, :].clone()
        parent.children[tokens[known]] = _Node(tokens[known:], new, parent, next(self._clock))
        self.bytes += _bytes(new)
        self._forget_oldest()

    def _walk(self, tokens: Tokens) -> list[tuple[_Node, int]]:
        """The nodes that `tokens` runs through, and how many tokens of each it shares; marks them as used."""
        path: list[tuple[_Node, int]] = []
        node, at, now = self._root, 0, next(self._clock)
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            shared = common_prefix(child.tokens, tokens[at : at + len(child.tokens)])
            child.used = now
            path.append((child, shared))
            at += shared
            if shared < len(child.tokens):
                break
            node = child
        return path

    def _split(self, node: _Node, count: int) -> _Node:
        """Cut a node in two; returns the upper one, which keeps `count` tokens. Copies, so that either can be forgotten alone."""
        assert node.parent is not None
        upper = _Node(node.tokens[:count], node.states[..., :count, :].clone(), node.parent, node.used)
        node.parent.children[node.tokens[0]] = upper
        node.tokens, node.states, node.parent = node.tokens[count:], node.states[..., count:, :].clone(), upper
        upper.children[node.tokens[0]] = node
        return upper

    def _forget_oldest(self) -> None:
        while self.bytes > self._budget:
            leaves = sorted((node for node in self._nodes() if not node.children), key=lambda node: node.used)
            for leaf in leaves:
                assert leaf.parent is not None
                del leaf.parent.children[leaf.tokens[0]]
                self.bytes -= _bytes(leaf.states)
                if self.bytes <= self._budget:
                    return

    def _nodes(self) -> list[_Node]:
        nodes = list(self._root.children.values())
        for node in nodes:  # grows while it is walked
            nodes += node.children.values()
        return nodes


def shared_prefixes(sequences: Sequence[Tokens], worth: int) -> list[list[Tokens]]:
    """The prefixes that several of the sequences share, so that each can be read once: by depth, a prefix after those it contains.

    Args:
        sequences: token ids.
        worth: tokens that reading a prefix apart must save, at least.
    """
    depths: list[list[Tokens]] = []
    waiting = [(sorted(set(sequences)), 0, 0)]
    while waiting:
        group, start, depth = waiting.pop()
        if len(group) < 2:
            continue
        common = common_prefix(group[0], group[-1])
        if (common - start) * (len(group) - 1) >= worth:
            depths += [[]] if depth == len(depths) else []
            depths[depth].append(group[0][:common])
            start, depth = common, depth + 1
        parts = itertools.groupby(group, key=lambda tokens: tokens[common : common + 1])
        waiting += [(list(part), start, depth) for _, part in parts]
    return depths


def _bytes(states: Tensor) -> int:
    return states.numel() * states.element_size()
