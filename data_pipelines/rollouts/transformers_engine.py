"""Sampling with transformers in this very process: the embedded default, for any model that transformers loads."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from align.engine.generate import end_tokens, sample_responses
from align.engine.prefix_probe import why_not
from align.engine.sampler import Job, PrefixSampler
from align.engine.tokenize import prompt_token_ids
from align.errors import AlignError, nearest
from align.models import load_model, load_tokenizer
from align.sampling import Sample, Sampling
from align.trees import Message
from data_pipelines.rollouts.protocol import Request, Rollout, check_requests, completion_of

logger = logging.getLogger(__name__)

READING = ("prefixes", "plain")


class TransformersEngine:
    """A model of transformers and what samples from it.

    Prompts are read from prefix caches: what requests share is read once, for all their samples and, within `session`, for the calls that
    follow. A model that cannot be sampled from so (states of convolutions or of linear attention, rotary frequencies that depend on the
    length, an attention of its own) is sampled with transformers' `generate`.
    """

    def __init__(
        self, model: str | Path, *, dtype: str = "auto", batch: int = 64, reading: Literal["prefixes", "plain"] = "prefixes",
        prefix_cache_gib: float | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Args: model, a folder (an adapter's as well) or a name on the hub; dtype; batch, responses at a time; reading, of prompts:
        "plain" has transformers' `generate` read each request's by itself; prefix_cache_gib, memory for prefixes (default: an eighth of
        the main memory, a quarter of what the model leaves of a GPU's); options for `from_pretrained`.

        Raises:
            AlignError: the model cannot be loaded.
        """
        if prefix_cache_gib is not None and not (isinstance(prefix_cache_gib, int | float) and prefix_cache_gib >= 0):
            raise AlignError(f"rollouts.options.prefix_cache_gib is {prefix_cache_gib!r}: expected a number of GiB, 0 or more")
        if reading not in READING:
            raise AlignError(f"rollouts.options.reading is '{reading}': {nearest(reading, READING)}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = load_tokenizer(str(model))
        self.model = load_model(str(model), dtype=dtype, **options).to(device).eval()
        self.batch: int | None = batch
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._sampler: PrefixSampler | None = None
        if reading == "prefixes":
            sampler = PrefixSampler(self.model, self.tokenizer, batch=batch, budget=_cache_budget(device, prefix_cache_gib))
            reason = why_not(self.model, sampler)
            self._sampler = None if reason else sampler
            if reason:
                logger.warning("%s is sampled without prefix caches, which is slower: %s.", model, reason)

    def prompt_ids(self, prompt: str | list[Message] | tuple[int, ...]) -> tuple[int, ...]:
        """A prompt's token ids."""
        return prompt if isinstance(prompt, tuple) else tuple(prompt_token_ids(prompt, self.tokenizer))

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """A context in which prefixes that one call of `generate` has read are known to the next."""
        with self._sampler.keeping() if self._sampler is not None else contextlib.nullcontext():
            yield

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Sample; yields prompts as their samples are done."""
        check_requests(requests, sampling)
        ends = end_tokens(self.model, self.tokenizer)
        prompts = {request.id: self.prompt_ids(request.prompt) for request in requests}
        sampled = self._sampled_plainly if self._sampler is None else self._sampled_from_prefixes
        for id, samples in sampled(requests, prompts, sampling):
            completions = tuple(completion_of(sample, self.tokenizer, sampling, ends) for sample in samples)
            yield Rollout(id, prompts[id], completions)

    def _longest(self, prompt: int, sampling: Sampling) -> int:
        """Tokens that a response to a prompt of so many tokens may have: what is left of the context, one at least."""
        return sampling.max_new_tokens if self.context is None else max(1, min(sampling.max_new_tokens, self.context - prompt))

    def _sampled_from_prefixes(
        self, requests: Sequence[Request], prompts: dict[str, tuple[int, ...]], sampling: Sampling
    ) -> Iterator[tuple[str, list[Sample]]]:
        assert self._sampler is not None
        yield from ((request.id, [Sample((), (), "stop")] * request.n) for request in requests if not prompts[request.id])
        jobs = [
            Job(request.id, ids, request.n, request.seed, self._longest(len(ids), sampling))
            for request in requests
            if (ids := prompts[request.id])
        ]
        yield from self._sampler.sample(jobs, sampling)

    def _sampled_plainly(
        self, requests: Sequence[Request], prompts: dict[str, tuple[int, ...]], sampling: Sampling
    ) -> Iterator[tuple[str, list[Sample]]]:
        """Batch by batch, prompts of like length together."""
        assert self.batch is not None
        waiting = sorted(requests, key=lambda request: (request.n, len(prompts[request.id]), request.id))
        while waiting:
            n = waiting[0].n
            part = [request for request in waiting[: max(1, self.batch // n)] if request.n == n]
            waiting = waiting[len(part) :]
            longest = self._longest(max(len(prompts[request.id]) for request in part), sampling)
            samples = sample_responses(
                self.model,
                [prompts[request.id] for request in part],
                replace(sampling, max_new_tokens=longest),
                tokenizer=self.tokenizer,
                seeds=[request.seed for request in part],
                n=n,
                batch_size=self.batch,
            )
            yield from zip((request.id for request in part), samples, strict=True)

    def close(self) -> None:
        """Forget the model and what was read."""
        self._sampler = None
        del self.model


def _cache_budget(device: str, gib: float | None) -> int:
    """Bytes for keys and values of prefixes: if not set, an eighth of the main memory, or a quarter of what is free on the GPU."""
    if gib is not None:
        return int(gib * 2**30)
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0]) // 4
    return int(psutil.virtual_memory().total) // 8
