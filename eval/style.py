"""Kindness and length on the micro style task."""

from __future__ import annotations

from statistics import mean
from typing import Any

from align.engine.generate import sample_responses
from align.sampling import Sampling
from data_pipelines.micro import style
from eval.answers import Answer, Measured


def measure(model: Any, tokenizer: Any, count: int = 224, seed: int = 0, samples: int = 4) -> Measured:
    """`gold`, the mean score (−1 to 1), and `tokens`, the mean length, of samples at temperature 1 to held-out prompts.

    Args:
        model: to be judged.
        tokenizer: the model's.
        count: prompts.
        seed: of the samples.
        samples: a prompt.
    """
    was_training = model.training
    model.eval()
    asked = style.prompts("test")[:count]
    prompts = [tokenizer(prompt)["input_ids"] for prompt in asked]
    found = sample_responses(
        model, prompts, Sampling(style.MAX_NEW_TOKENS), tokenizer=tokenizer, seeds=seed << 32, n=samples, batch_size=1024
    )
    model.train(was_training)
    answers = []
    for place, (prompt, responses) in enumerate(zip(asked, found, strict=True)):
        texts = [tokenizer.decode(sample.token_ids, skip_special_tokens=True) for sample in responses]
        answers.append(Answer(str(place), prompt, "\n".join(texts), mean(map(style.gold_score, texts))))  # samples of a prompt are alike
    tokens = mean(len(sample.token_ids) for responses in found for sample in responses)
    return Measured({"gold": mean(one.grade for one in answers), "tokens": tokens}, answers)
