"""Kindness and length on the micro style task."""

from __future__ import annotations

from statistics import mean
from typing import Any

from align.engine.generate import sample_responses
from align.sampling import Sampling
from data_pipelines.micro import style


def gold_and_length(model: Any, tokenizer: Any, count: int = 224, seed: int = 0, samples: int = 4) -> dict[str, float]:
    """Mean gold score (−1 to 1) and mean length in tokens of samples at temperature 1 to held-out prompts.

    Args:
        model, tokenizer: to be judged.
        count: prompts.
        seed: of the samples.
        samples: a prompt.
    """
    was_training = model.training
    model.eval()
    prompts = [tokenizer(prompt)["input_ids"] for prompt in style.prompts("test")[:count]]
    found = sample_responses(
        model, prompts, Sampling(style.MAX_NEW_TOKENS), tokenizer=tokenizer, seeds=seed << 32, n=samples, batch_size=1024
    )
    model.train(was_training)
    responses = [sample for mine in found for sample in mine]
    texts = [tokenizer.decode(sample.token_ids, skip_special_tokens=True) for sample in responses]
    return {"gold": mean(map(style.gold_score, texts)), "tokens": mean(len(sample.token_ids) for sample in responses)}
