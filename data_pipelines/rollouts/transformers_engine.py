"""Sampling with transformers.generate in this very process: the embedded default, for any model that transformers loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from align.engine.generate import Sampling, end_tokens, sample_responses
from align.engine.tokenize import prompt_token_ids
from align.models import load_model, load_tokenizer
from align.trees import Message
from data_pipelines.rollouts.protocol import Request, Rollout, check_requests, completion_of


class TransformersEngine:
    """transformers' own generation: left-padded, batched by length, the prompt's cache shared by its samples."""

    def __init__(self, model: str | Path, *, dtype: str = "auto", batch: int = 64, **options: Any) -> None:
        """Args: model, a folder (an adapter's as well) or a name on the hub; dtype; batch, responses at a time;
        options for `from_pretrained`.

        Raises:
            AlignError: the model cannot be loaded.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = load_tokenizer(str(model))
        self.model = load_model(str(model), dtype=dtype, **options).to(device).eval()
        self.batch: int | None = batch
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def prompt_ids(self, prompt: str | list[Message] | tuple[int, ...]) -> tuple[int, ...]:
        """A prompt's token ids."""
        return prompt if isinstance(prompt, tuple) else tuple(prompt_token_ids(prompt, self.tokenizer))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Sample batch by batch, prompts of like length together."""
        check_requests(requests, sampling)
        ends = end_tokens(self.model, self.tokenizer)
        prompts = {request.id: self.prompt_ids(request.prompt) for request in requests}
        waiting = sorted(requests, key=lambda request: (request.n, len(prompts[request.id]), request.id))
        assert self.batch is not None
        while waiting:
            n = waiting[0].n
            each = max(1, self.batch // n)
            part = [request for request in waiting[:each] if request.n == n]
            waiting = waiting[len(part) :]
            room = sampling.max_new_tokens if self.context is None else self.context - max(len(prompts[request.id]) for request in part)
            samples = sample_responses(
                self.model,
                [prompts[request.id] for request in part],
                replace(sampling, max_new_tokens=max(1, min(sampling.max_new_tokens, room))),
                tokenizer=self.tokenizer,
                seeds=[request.seed for request in part],
                n=n,
                batch_size=self.batch,
            )
            for request, mine in zip(part, samples, strict=True):
                completions = tuple(completion_of(sample, self.tokenizer, sampling, ends) for sample in mine)
                yield Rollout(request.id, prompts[request.id], completions)

    def close(self) -> None:
        """Forget the model."""
        del self.model
