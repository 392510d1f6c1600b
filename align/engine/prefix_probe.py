"""Whether a model can be sampled from prefix caches: its configuration is looked at, then its numbers against its own plain forward."""

from __future__ import annotations

from typing import Any

import torch

from align.engine.probe import TOLERANCE, cannot_share
from align.engine.sampler import Job, PrefixSampler
from align.sampling import Sampling


def why_not(model: Any, sampler: PrefixSampler) -> str | None:
    """Why a sampler must not be used with its model; None where its log-probs are those of the model's plain forward.

    Args:
        model: a causal LM in evaluation mode, in place on its device.
        sampler: on this model.
    """
    reason = cannot_share(model)
    if reason is not None:
        return reason
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    length = 12 + (window if window <= 128 else 0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, config.vocab_size, (length + 9,), generator=generator).tolist()
    prompts = [tuple(ids), tuple(ids[:length] + ids[length + 3 :]), tuple(ids[:length])]  # of several lengths, with a common prefix
    jobs = [Job(str(number), prompt, 2, 10 * number, 4) for number, prompt in enumerate(prompts)]
    differences = [0.0]
    try:
        for id, samples in sampler.sample(jobs, Sampling(4)):
            for sample in samples:
                row = [*prompts[int(id)], *sample.token_ids]
                with torch.no_grad():
                    logps = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0].float().log_softmax(-1)
                for position, (token, logp) in enumerate(zip(sample.token_ids, sample.logps, strict=True), len(prompts[int(id)])):
                    differences.append(abs(logp - logps[position - 1, token].item()))
    except Exception as error:  # whatever a foreign architecture throws at an unusual call
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    difference = torch.tensor(differences).max().item()  # NaN, where one of them is
    return None if difference <= TOLERANCE.get(model.dtype, 1e-3) else f"log-probs differ by {difference:.2g} nats"
