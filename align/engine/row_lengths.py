"""How long a row is made, so that compiled code meets few lengths."""

from __future__ import annotations

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
