"""The sums task: three additions in a chain, written out step by step. Small enough to learn from scratch on a laptop.

prompt    "7+6+8+3\\n"
response  "7+6=13\\n13+8=21\\n21+3=24\\n"
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align.engine.generate import sample_responses
from align.sampling import Sampling

STEPS = 3
LARGEST = 9
ALPHABET = "0123456789+=\n"
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Sum:
    """A problem: the numbers to be added, one after the other."""

    numbers: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The problem as the model sees it."""
        return "+".join(map(str, self.numbers)) + "\n"

    @property
    def solution(self) -> str:
        """The worked solution, one step a line."""
        lines, total = [], self.numbers[0]
        for number in self.numbers[1:]:
            lines.append(f"{total}+{number}={total + number}\n")
            total += number
        return "".join(lines)

    def is_right(self, response: str) -> bool:
        """Whether the response is the worked solution, every step of it right.

        >>> Sum((1, 2, 3, 4)).is_right("1+2=3\\n3+3=6\\n6+4=10\\n")
        True
        """
        return response.strip() == self.solution.strip()


def problems(count: int, seed: int, split: str = "train") -> list[Sum]:
    """Random problems. Splits never share one: a problem's digit sum decides which split it belongs to.

    Args:
        count: how many.
        seed: of the draw.
        split: "train" (fitting the start model), "pairs" (preferences) or "test".
    """
    rng = random.Random(f"{split}-{seed}")
    wanted = {"train": range(16), "pairs": range(16, 18), "test": range(18, 20)}[split]
    found: list[Sum] = []
    while len(found) < count:
        candidate = Sum(tuple(rng.randint(1, LARGEST) for _ in range(STEPS + 1)))
        if sum(number * place for place, number in enumerate(candidate.numbers, 1)) % 20 in wanted:
            found.append(candidate)
    return found


def greedy_responses(model: Any, tokenizer: Any, asked: Sequence[Sum]) -> list[str]:
    """The greedy response to each problem. The model's mode is left as it was."""
    was_training = model.training
    model.eval()
    responses = sample_responses(
        model,
        [tokenizer(problem.prompt)["input_ids"] for problem in asked],
        Sampling(MAX_NEW_TOKENS, temperature=0.0),
        tokenizer=tokenizer,
    )
    model.train(was_training)
    return [tokenizer.decode(response.token_ids, skip_special_tokens=True) for (response,) in responses]


def share_right(model: Any, tokenizer: Any, asked: Sequence[Sum]) -> float:
    """Share of problems whose greedy response is right in every step, 0 to 1."""
    responses = greedy_responses(model, tokenizer, asked)
    return sum(problem.is_right(text) for problem, text in zip(asked, responses, strict=True)) / len(asked)
