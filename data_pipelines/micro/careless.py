"""The careless task: chained sums modulo 5 as careless pupils write them, and a teacher's verdicts on single steps.

prompt    "7+6+8+3\\n"                       verdict on a step   "7+6+8+3\\n7+6=3\\n?"
response  "7+6=3\\n3+8=1\\n1+3=4\\n"         answer              "3y", the teacher's own digit and the verdict

Some additions are misconceptions: the pupils mostly write the same wrong digit. A model that learns from pupils writes it
too; that it also learned the verdicts of a teacher is what self-evaluation can bring to bear, without any label. This
mimics a language model that repeats common mistakes of its corpus and yet recognises them when asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from align.engine.generate import sample_responses
from align.sampling import Sampling
from data_pipelines.micro.scratch import cached, character_tokenizer, train_from_scratch
from data_pipelines.micro.sums import Sum, problems

ALPHABET = "0123456789+=\n?yn"
MODULUS = 5


@dataclass(frozen=True)
class Careless:
    """How pupils write, and how the start model is made from what they wrote.

    Attributes:
        seed: of misconceptions, data and weights.
        misconceptions: share of the 100 additions of two digits, 0 to 9, that pupils tend to get wrong.
        mistaken: how often they get such an addition wrong, always in the same way.
        judges_at: share of right verdicts, on paths not seen before, at which training stops: what a pupil writes is learned long
            before, what a teacher says takes longer, and at another time with every seed.
        max_steps, batch_size, learning_rate, hidden_size, layers, heads: of the start model's training.
        verdicts: share of the examples that are a teacher's verdicts.
    """

    seed: int = 0
    misconceptions: float = 0.3
    mistaken: float = 0.65
    judges_at: float = 0.97
    max_steps: int = 1600
    batch_size: int = 64
    learning_rate: float = 3e-3
    hidden_size: int = 96
    layers: int = 2
    heads: int = 3
    verdicts: float = 0.6

    def wrong_digits(self) -> dict[tuple[int, int], int]:
        """The misconceptions: what pupils write instead, by the two digits that are added."""
        rng = random.Random(f"misconceptions-{self.seed}")
        pairs = [(a, b) for a in range(10) for b in range(10)]
        return {
            (a, b): rng.choice([d for d in range(MODULUS) if d != (a + b) % MODULUS])
            for a, b in rng.sample(pairs, int(100 * self.misconceptions))
        }


def examples(how: Careless, count: int, split: str = "train") -> list[tuple[str, str]]:
    """Prompts and responses for the start model: pupils' solutions and a teacher's verdicts, mixed."""
    rng, wrong = random.Random(f"examples-{split}-{how.seed}"), how.wrong_digits()

    def pupil(a: int, b: int) -> int:
        return wrong[a, b] if (a, b) in wrong and rng.random() < how.mistaken else (a + b) % MODULUS

    found = []
    for problem in problems(count, how.seed, split):
        lines, total = [], problem.numbers[0]
        for number in problem.numbers[1:]:
            written = pupil(total, number)
            lines.append(f"{total}+{number}={written}\n")
            total = written
        if rng.random() < how.verdicts:
            found.append(_verdict(problem, lines[: rng.randint(1, len(lines))], rng))
        else:
            found.append((problem.prompt, "".join(lines)))
    return found


def _verdict(problem: Sum, lines: list[str], rng: random.Random) -> tuple[str, str]:
    """A teacher's verdict on the last of these lines: as the pupil wrote it, or with a random digit."""
    a, b, written = int(lines[-1][0]), int(lines[-1][2]), int(lines[-1][4])
    if rng.random() < 0.5:
        written = rng.randrange(MODULUS)
    path = "".join(lines[:-1]) + f"{a}+{b}={written}\n"
    right = (a + b) % MODULUS
    return f"{problem.prompt}{path}?", f"{right}{'y' if written == right else 'n'}"


def share_judged(model: Any, tokenizer: Any, verdicts: Sequence[tuple[str, str]]) -> float:
    """Share of paths on which a model's greedy verdict is the teacher's, 0 to 1. The model's mode is left as it was."""
    was_training = model.training
    model.eval()
    found = sample_responses(model, [tokenizer(p)["input_ids"] for p, _ in verdicts], Sampling(4, temperature=0.0), tokenizer=tokenizer)
    model.train(was_training)
    texts = [tokenizer.decode(sample.token_ids, skip_special_tokens=True) for (sample,) in found]
    return sum(text[1:2] == verdict[1] for text, (_, verdict) in zip(texts, verdicts, strict=True)) / len(verdicts)


def build(how: Careless, folder: Path | None = None) -> Path:
    """Train the start model, or take it from the cache: a folder that `from_pretrained` loads."""

    def make(target: Path) -> None:
        tokenizer = character_tokenizer(ALPHABET)
        held_out = examples(replace(how, verdicts=1.0), 300, "pairs")

        def share(model: Any, step: int) -> float | None:
            return share_judged(model, tokenizer, held_out) if step % 50 == 0 else None

        model = train_from_scratch(
            tokenizer, examples(how, how.max_steps * how.batch_size), seed=how.seed, batch_size=how.batch_size,
            hidden_size=how.hidden_size, layers=how.layers, heads=how.heads, learning_rate=how.learning_rate,
            label=f"careless model, seed {how.seed}", stop=share, stop_at=how.judges_at,
        )  # fmt: skip
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return cached("careless", asdict(how), make, folder)
