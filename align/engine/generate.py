"""Batched sampling with transformers' generate: left-padded, the prompt's cache shared by its samples, seeded per sample.

Every sample draws its tokens by inverse CDF from uniform numbers of its own seed, so that it is the same whatever stands
beside it in the batch (up to rounding of the logits).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteria,
    StoppingCriteriaList,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from align.sampling import Sample, Sampling


@torch.no_grad()
def sample_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    tokenizer: Any,
    seeds: Sequence[int] | int = 0,
    n: int = 1,
    batch_size: int = 512,
) -> list[list[Sample]]:
    """Sample n responses to each prompt.

    Args:
        model: with `generate`, in evaluation mode.
        prompts: token ids; an empty prompt gets empty responses.
        sampling: temperature, filters, stops.
        tokenizer: for the end and padding tokens, and to find stop texts.
        seeds: one a prompt, or one number that they are counted up from; sample i of a prompt has its seed plus i.
        n: samples a prompt.
        batch_size: rows (prompts times n) at a time; one prompt at least.

    Returns:
        For each prompt its n samples. The global random state is left as it was.
    """
    prompt_seeds = [seeds + n * i for i in range(len(prompts))] if isinstance(seeds, int) else list(seeds)
    order = sorted((i for i, prompt in enumerate(prompts) if prompt), key=lambda i: len(prompts[i]))
    samples: list[list[Sample]] = [[Sample((), (), "stop")] * n for _ in prompts]
    each = max(1, batch_size // n)
    for start in range(0, len(order), each):
        part = order[start : start + each]
        rows = _generate(model, [prompts[i] for i in part], sampling, tokenizer, [prompt_seeds[i] + k for i in part for k in range(n)], n)
        for position, i in enumerate(part):
            samples[i] = rows[position * n : (position + 1) * n]
    return samples


def end_tokens(model: Any, tokenizer: Any, sampling: Sampling | None = None) -> list[int]:
    """The tokens that end a response: the tokenizer's, the model's own, and those asked for."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]), *(sampling.stop_token_ids if sampling else ())]
    return list(dict.fromkeys(token for token in ids if token is not None))


def _generate(model: Any, prompts: list[Sequence[int]], sampling: Sampling, tokenizer: Any, seeds: list[int], n: int) -> list[Sample]:
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = end_tokens(model, tokenizer, sampling)
    ids, mask = _left_pad(prompts, pad, device)
    cache = _shared_cache(model, ids, mask, n) if n > 1 and ids.shape[1] > 1 else None
    ids, mask = ids.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
    choice = _Choice(sampling, seeds, device)
    stops = _StopTexts(sampling.stop, tokenizer, ids.shape[1], len(ids)) if sampling.stop else None
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=ends or None,
        do_sample=False,  # `choice` draws; whatever the model's own generation settings say is off
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        logits_processor=LogitsProcessorList([choice]),
        stopping_criteria=StoppingCriteriaList([stops]) if stops else None,
        **({"past_key_values": cache} if cache is not None else {}),
    )
    responses, logps = out[:, ids.shape[1] :].tolist(), torch.stack(choice.logps, 1).tolist()
    return [_sample(responses[r], logps[r], ends, stops.lengths[r] if stops else None) for r in range(len(responses))]


def _sample(tokens: list[int], logps: list[float], ends: Collection[int], stopped_at: int | None) -> Sample:
    ended = next((i + 1 for i, token in enumerate(tokens) if token in ends), None)
    length = min(x for x in (ended, stopped_at, len(tokens)) if x is not None)
    stopped = ended is not None or stopped_at is not None
    return Sample(tuple(tokens[:length]), tuple(logps[:length]), "stop" if stopped else "length")


def _shared_cache(model: Any, ids: Tensor, mask: Tensor, n: int) -> DynamicCache | None:
    """The cache of all but the prompts' last tokens, once a prompt, then repeated for its n samples."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]
    out = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    if not isinstance(cache, DynamicCache) or not all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers):
        return None  # states of linear attention and convolutions cannot be repeated: each sample reads the prompt itself
    cache.batch_repeat_interleave(n)
    return cache


def _left_pad(prompts: list[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_token_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt), device=device)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


class Drawing:
    """How the next token is drawn: by inverse CDF from a uniform number, or the likeliest one at temperature 0."""

    def __init__(self, sampling: Sampling) -> None:
        """Args: sampling, for temperature and filters."""
        self._temperature = sampling.temperature
        self._filters = LogitsProcessorList()
        if sampling.temperature:
            self._filters += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k > 0 else []
            self._filters += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1.0 else []
            self._filters += [MinPLogitsWarper(sampling.min_p)] if sampling.min_p > 0.0 else []

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens drawn and their log-probs, `[rows]` each.

        Args:
            logits: `[rows, vocabulary]`.
            uniform: `[rows]`, float64 in [0, 1); not used at temperature 0.
        """
        logits = logits.float()
        if self._temperature:
            probs = self._filters(None, logits / self._temperature).softmax(-1)
            cdf = probs.double().cumsum(-1)
            drawn = uniform[:, None] * cdf[:, -1:]
            chosen = torch.searchsorted(cdf, drawn, right=True).clamp(max=logits.shape[-1] - 1)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        return chosen[:, 0], logits.gather(-1, chosen)[:, 0] - logits.logsumexp(-1)


def uniform_numbers(seed: int, count: int) -> np.ndarray:
    """The numbers that a sample's tokens are drawn with, float64 in [0, 1): a function of its seed; a longer list begins the same."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


class StopTexts:
    """Tells which responses contain a stop text by now."""

    def __init__(self, stop: Sequence[str], tokenizer: Any) -> None:
        """Args: stop, texts; tokenizer."""
        self._stop, self._tokenizer = stop, tokenizer
        self.window = 4 * max(map(len, stop), default=0) + 8  # tokens of one character may be four bytes

    def hit(self, tails: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each response's end, its last `window` tokens or more, contains a stop text."""
        if not self._stop or not tails:
            return [False] * len(tails)
        texts = self._tokenizer.batch_decode(tails, skip_special_tokens=True)
        return [any(stop in text for stop in self._stop) for text in texts]


class _Choice(LogitsProcessor):
    """Draws every row's next token by its own uniform number, and leaves nothing else to choose from."""

    def __init__(self, sampling: Sampling, seeds: list[int], device: torch.device) -> None:
        self._draw = Drawing(sampling)
        numbers = np.stack([uniform_numbers(seed, sampling.max_new_tokens) for seed in seeds])
        self._uniform = torch.from_numpy(numbers).to(device)
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen, logps = self._draw(scores, self._uniform[:, len(self.logps)])
        self.logps.append(logps)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


class _StopTexts(StoppingCriteria):
    """Ends a row once its response, by itself, contains a stop text; `lengths` are the tokens up to there."""

    def __init__(self, stop: Sequence[str], tokenizer: Any, prompt_length: int, rows: int) -> None:
        self._stop, self._start = StopTexts(stop, tokenizer), prompt_length
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        length = input_ids.shape[1] - self._start
        open_rows = [row for row, stopped in enumerate(self.lengths) if stopped is None]
        tails = input_ids[open_rows, max(self._start, input_ids.shape[1] - self._stop.window) :].tolist()
        for row, hit in zip(open_rows, self._stop.hit(tails), strict=True):
            if hit:
                self.lengths[row] = length
        return torch.tensor([stopped is not None for stopped in self.lengths], device=input_ids.device)
