"""The careless task: chained sums modulo 5 as careless pupils write them, and a teacher's verdicts on single steps.

prompt    "7+6+8+3\\n"                       verdict on a step   "7+6+8+3\\n7+6=3\\n?"
response  "7+6=3\\n3+8=1\\n1+3=4\\n"         answer              "3y", the teacher's own digit and the verdict

Some additions are misconceptions: the pupils mostly write the same wrong digit. A model that learns from pupils writes it
too; that it also learned the verdicts of a teacher is what self-evaluation can bring to bear, without any label. This
mimics a language model that repeats common mistakes of its corpus and yet recognises them when asked.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path

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
        steps, batch_size, learning_rate, hidden_size, layers, heads: of the start model's training.
        verdicts: share of the examples that are a teacher's verdicts.
    """

    seed: int = 0
    misconceptions: float = 0.3
    mistaken: float = 0.65
    steps: int = 600
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


def examples(how: Careless, count: int) -> list[tuple[str, str]]:
    """Prompts and responses for the start model: pupils' solutions and a teacher's verdicts, mixed."""
    rng, wrong = random.Random(f"examples-{how.seed}"), how.wrong_digits()

    def pupil(a: int, b: int) -> int:
        return wrong[a, b] if (a, b) in wrong and rng.random() < how.mistaken else (a + b) % MODULUS

    found = []
    for problem in problems(count, how.seed):
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


def build(how: Careless, folder: Path | None = None) -> Path:
    """Train the start model, or take it from the cache: a folder that `from_pretrained` loads."""

    def make(target: Path) -> None:
        tokenizer = character_tokenizer(ALPHABET)
        model = train_from_scratch(
            tokenizer, examples(how, how.steps * how.batch_size), seed=how.seed, batch_size=how.batch_size, hidden_size=how.hidden_size,
            layers=how.layers, heads=how.heads, learning_rate=how.learning_rate, label=f"careless model, seed {how.seed}",
        )  # fmt: skip
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return cached("careless", asdict(how), make, folder)
