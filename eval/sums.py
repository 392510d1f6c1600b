"""Greedy accuracy on the micro sums task."""

from __future__ import annotations

from typing import Any

from data_pipelines.micro.sums import problems, share_right


def greedy_accuracy(model: Any, tokenizer: Any, count: int = 400, seed: int = 0) -> float:
    """Share of held-out problems whose greedy response is right in every step, 0 to 1.

    Args:
        model, tokenizer: to be judged.
        count, seed: of the test problems.
    """
    return share_right(model, tokenizer, problems(count, seed, "test"))
