"""Greedy accuracy on the micro sums task."""

from __future__ import annotations

from statistics import mean
from typing import Any

from data_pipelines.micro.sums import greedy_responses, problems
from eval.answers import Answer, Measured


def measure(model: Any, tokenizer: Any, count: int = 400, seed: int = 0) -> Measured:
    """`accuracy`: share of held-out problems whose greedy response is right in every step, 0 to 1.

    Args:
        model: to be judged.
        tokenizer: the model's.
        count: how many test problems.
        seed: of the problems.
    """
    asked = problems(count, seed, "test")
    responses = greedy_responses(model, tokenizer, asked)
    answers = [
        Answer(str(place), one.prompt, text, float(one.is_right(text)))
        for place, (one, text) in enumerate(zip(asked, responses, strict=True))
    ]
    return Measured({"accuracy": mean(one.grade for one in answers)}, answers)
