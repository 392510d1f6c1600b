"""The code task: one-line Python functions from a short description, small enough to learn from scratch on a laptop.

prompt    "add 3, square, double\\n"
response  "def f(x): return ((x+3)**2)*2"

Every description has one to three operations, applied one after the other; tests run the function on a few integers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from align.engine.generate import sample_responses
from align.sampling import Sampling
from data_pipelines.micro.scratch import cached, character_tokenizer, train_from_scratch

ALPHABET = "fx0123456789 ,:()+-*/%\n"
WORDS = ["add", "take", "away", "times", "modulo", "divide", "by", "from", "square", "double", "negate", "absolute", "def", "return", "abs"]
MAX_NEW_TOKENS = 48
OPERATIONS = 3
_ARGUMENTS = (0, 1, 2, 5, 7, -3, -8)

OPS: dict[str, tuple[str, str, Callable[[int, int], int]]] = {
    "add": ("add {n}", "{x}+{n}", lambda x, n: x + n),
    "take": ("take away {n}", "{x}-{n}", lambda x, n: x - n),
    "times": ("times {n}", "{x}*{n}", lambda x, n: x * n),
    "modulo": ("modulo {n}", "{x}%{n}", lambda x, n: x % n),
    "divide": ("divide by {n}", "{x}//{n}", lambda x, n: x // n),
    "from": ("take from {n}", "{n}-{x}", lambda x, n: n - x),
    "square": ("square", "{x}**2", lambda x, n: x**2),
    "double": ("double", "{x}*2", lambda x, n: x * 2),
    "negate": ("negate", "-{x}", lambda x, n: -x),
    "size": ("absolute", "abs({x})", lambda x, n: abs(x)),
}
"""What each operation is called, its Python, and what it does."""


@dataclass(frozen=True)
class Chain:
    """A problem: operations with their numbers, one after the other."""

    steps: tuple[tuple[str, int], ...]

    @property
    def prompt(self) -> str:
        """The problem as the model sees it."""
        return ", ".join(OPS[name][0].format(n=n) for name, n in self.steps) + "\n"

    @property
    def solution(self) -> str:
        """The function.

        >>> Chain((("add", 3), ("square", 1))).solution
        'def f(x): return (x+3)**2'
        """
        code = "x"
        for name, n in self.steps:
            inner = code if code == "x" or name == "size" else f"({code})"
            code = OPS[name][1].format(x=inner, n=n)
        return f"def f(x): return {code}"

    def value(self, x: int) -> int:
        """What the function gives."""
        for name, n in self.steps:
            x = OPS[name][2](x, n)
        return x

    def record(self) -> dict[str, Any]:
        """The problem in our own format, with its tests."""
        tests = "\n".join(f"assert f({x}) == {self.value(x)}" for x in _ARGUMENTS)
        return {"id": self.prompt.strip(), "prompt": self.prompt, "tests": tests, "entry_point": "f", "solution": self.solution}


def chains(count: int, seed: int, split: str) -> list[Chain]:
    """Distinct random problems. Splits never share one.

    Args:
        count: how many.
        seed: of the draw.
        split: "train" (the start model; not distinct), "pairs" (preferences) or "test".
    """
    rng = random.Random(f"{split}-{seed}")
    wanted = {"train": range(16), "pairs": range(16, 18), "test": range(18, 20)}[split]
    found: dict[Any, Chain] = {}
    while len(found) < count:
        chain = Chain(tuple((rng.choice(list(OPS)), rng.randint(2, 9)) for _ in range(rng.randint(1, OPERATIONS))))
        if crc32(chain.prompt.encode()) % 20 in wanted:
            found[len(found) if split == "train" else chain.prompt] = chain
    return list(found.values())


@dataclass(frozen=True)
class CodeModel:
    """How the start model is made. Its seed fixes weights and data.

    Attributes:
        stop_at: share of held-out problems written as the solution is at which training stops, so that there is something to gain.
        max_steps, batch_size, learning_rate, hidden_size, layers, heads: of its training.
    """

    seed: int = 0
    stop_at: float = 0.4
    max_steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 3e-3
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4


def share_written(model: Any, tokenizer: Any, asked: Sequence[Chain]) -> float:
    """Share of problems whose greedy response is the solution, character for character. The model's mode is left as it was."""
    was_training = model.training
    model.eval()
    prompts = [tokenizer(chain.prompt)["input_ids"] for chain in asked]
    responses = sample_responses(model, prompts, Sampling(MAX_NEW_TOKENS, temperature=0.0), tokenizer=tokenizer)
    model.train(was_training)
    texts = [tokenizer.decode(response.token_ids, skip_special_tokens=True) for (response,) in responses]
    return sum(text == chain.solution for text, chain in zip(texts, asked, strict=True)) / len(asked)


def build(how: CodeModel, folder: Path | None = None) -> Path:
    """Train the start model, or take it from the cache: a folder that `from_pretrained` loads."""

    def make(target: Path) -> None:
        tokenizer = character_tokenizer(ALPHABET, WORDS)
        held_out = chains(200, how.seed + 1, "pairs")

        def share(model: Any, step: int) -> float | None:
            return share_written(model, tokenizer, held_out) if step % 25 == 0 else None

        data = [(chain.prompt, chain.solution) for chain in chains(how.max_steps * how.batch_size, how.seed, "train")]
        model = train_from_scratch(
            tokenizer, data, seed=how.seed, batch_size=how.batch_size, hidden_size=how.hidden_size, layers=how.layers, heads=how.heads,
            learning_rate=how.learning_rate, label=f"code model, seed {how.seed}", stop=share, stop_at=how.stop_at,
        )  # fmt: skip
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return cached("code", asdict(how), make, folder)
