"""The sums' start model: a small Llama trained from scratch, stopped early so that there is something to gain."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import LlamaForCausalLM

from data_pipelines.micro.scratch import cached, character_tokenizer, train_from_scratch
from data_pipelines.micro.sums import ALPHABET, problems, share_right

NAME = "micro:sums"


@dataclass(frozen=True)
class StartModel:
    """How the start model is made. Its seed fixes weights and data.

    Attributes:
        stop_at: held-out greedy accuracy at which training stops, so that there is something left to gain.
        max_steps, batch_size: optimizer steps at most, problems a step.
        learning_rate: constant, after a warm-up.
    """

    seed: int = 0
    stop_at: float = 0.5
    max_steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 2e-3
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4


def build(how: StartModel, folder: Path | None = None) -> Path:
    """Train the start model, or take it from the cache.

    Args:
        how: the settings; another value of any of them is another model.
        folder: the cache (default: under HF_HOME).

    Returns:
        A folder that `from_pretrained` loads, model and tokenizer.
    """

    def make(target: Path) -> None:
        tok = character_tokenizer(ALPHABET)
        held_out = problems(200, how.seed + 1)
        data = [(p.prompt, p.solution) for p in problems(how.max_steps * how.batch_size, how.seed)]

        def share(model: LlamaForCausalLM, step: int) -> float | None:
            return share_right(model, tok, held_out) if step % 20 == 0 else None

        model = train_from_scratch(
            tok, data, seed=how.seed, batch_size=how.batch_size, hidden_size=how.hidden_size, layers=how.layers, heads=how.heads,
            learning_rate=how.learning_rate, label=f"start model, seed {how.seed}", stop=share, stop_at=how.stop_at,
        )  # fmt: skip
        model.save_pretrained(target)
        tok.save_pretrained(target)

    return cached("sums", asdict(how), make, folder)


def resolve(name: str, seed: int) -> str:
    """The folder or hub name to load of any model; `micro:sums` is trained first, or taken from the cache."""
    return str(build(StartModel(seed=seed))) if name == NAME else name
