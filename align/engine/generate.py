"""Batched sampling with transformers' generate: left-padded, seeded, token ids in and out."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def sample_responses(
    model: Any,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int | None,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 512,
) -> list[list[int]]:
    """One response a prompt.

    Args:
        model: with `generate`, in evaluation mode.
        prompts: token ids; an empty prompt gets an empty response.
        max_new_tokens: longest response.
        pad_token_id, eos_token_id: the tokenizer's.
        seed: of the sampling; the global random state is left as it was.
        temperature: 0 decodes greedily.
        batch_size: prompts at a time.

    Returns:
        Token ids in the order of the prompts, the end-of-sequence token included where it was sampled.
    """
    order = sorted((i for i, prompt in enumerate(prompts) if prompt), key=lambda i: len(prompts[i]))
    responses: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    how: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            ids, mask = _left_pad([prompts[i] for i in part], pad_token_id, device)
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad_token_id,
                eos_token_id=eos_token_id,
                **how,
            )
            for row, i in enumerate(part):
                response = out[row, ids.shape[1] :].tolist()
                responses[i] = response[: response.index(eos_token_id) + 1] if eos_token_id in response else response
    return responses


def _left_pad(prompts: list[list[int]], pad_token_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_token_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
