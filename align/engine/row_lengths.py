"""How many trees go into a row, and how long it is made, so that compiled code meets few lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_SHORTEST = 256
_MULTIPLE = 128  # tokens of a block of FlexAttention's masks


@dataclass(frozen=True)
class RowLengths:
    """The length of a row for the tokens it needs: `most`, or for a tree longer than that, and without it, a power of two.

    Attributes:
        most: `max_tokens_per_batch`.

    >>> RowLengths()(3000), RowLengths(8192)(3000), RowLengths(8192)(9000)
    (4096, 8192, 16384)
    """

    most: int | None = None

    def __call__(self, tokens: int) -> int:
        if self.most is not None and tokens <= self.most:
            return -(-self.most // _MULTIPLE) * _MULTIPLE
        length = _SHORTEST
        while length < tokens:
            length *= 2
        return length


def rows_within(budget: int, trees: Iterable[int], size: Callable[[int], int]) -> Iterator[list[int]]:
    """Trees by number, in rows of at most `budget` tokens, in their order; a larger one has a row of its own.

    >>> list(rows_within(10, [0, 1, 2, 3], [4, 5, 6, 20].__getitem__))
    [[0, 1], [2], [3]]
    """
    row: list[int] = []
    filled = 0
    for tree in trees:
        if row and filled + size(tree) > budget:
            yield row
            row, filled = [], 0
        row.append(tree)
        filled += size(tree)
    if row:
        yield row
