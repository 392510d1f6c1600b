"""The LM head on scored tokens only: token log-probs without the logits of the whole batch ever existing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

_KEEP_ELEMENTS = 1 << 26  # probabilities kept for the backward, at most (256 MB in float32); above, recomputed
_CHUNK_ELEMENTS = 1 << 23  # logits in being at a time


@dataclass
class TokenScores:
    """What the head says of each scored token; `[S]` each, float32. Only `logps` carries a gradient.

    Attributes:
        logps: log π(token | context).
        entropy: of the next-token distribution, nats.
        mean_logits: mean of the logits over the vocabulary.
        is_top1: 1 where the token is the most likely one.
        log_sum_sq_probs: log Σ_v π(v)², for WPO's weights.
    """

    logps: Tensor
    entropy: Tensor
    mean_logits: Tensor
    is_top1: Tensor
    log_sum_sq_probs: Tensor


def head_of(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The map from last hidden states to logits, with the scaling and soft-capping that the model's own forward applies.

    The start-up probe compares the result with the model's own logits, so an architecture with some other twist is
    found out and not computed wrongly.
    """
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    scale = _logit_scale(config)

    def head(hidden: Tensor) -> Tensor:
        logits = model.get_output_embeddings()(hidden)
        if scale != 1.0:
            logits = logits * scale
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    return head


def _logit_scale(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere, Muse, Falcon-H1
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)  # Granite divides by it, HyperCLOVA X multiplies
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)


def score_tokens(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, vocab_size: int, sum_sq: bool = False) -> TokenScores:
    """Log-probs of labels given hidden states, in chunks.

    Small batches keep their probabilities for the backward; from `_KEEP_ELEMENTS` on, each chunk is recomputed.

    Args:
        head: hidden states `[n, d]` → logits `[n, vocab]`.
        hidden: `[S, d]`.
        labels: `[S]`.
        vocab_size: width of the logits, for choosing the chunks.
        sum_sq: also compute `log_sum_sq_probs` (zero otherwise).
    """
    count = len(labels)
    chunk = max(1, _CHUNK_ELEMENTS // vocab_size)
    recompute = torch.is_grad_enabled() and count * vocab_size > _KEEP_ELEMENTS

    def run(part: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return _LabelLogps.apply(head(part), targets, sum_sq)

    parts = []
    for start in range(0, max(count, 1), chunk):  # an empty batch still calls the head: its parameters take part
        args = (hidden[start : start + chunk], labels[start : start + chunk])
        parts.append(checkpoint(run, *args, use_reentrant=False) if recompute else run(*args))
    return TokenScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _LabelLogps(torch.autograd.Function):
    """log-softmax at the labels, and statistics; the backward overwrites the kept probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, sum_sq: bool) -> tuple[Tensor, ...]:
        values = logits.float()
        lse = values.logsumexp(-1)
        mean_logits = values.mean(-1)
        log_probs = values - lse[:, None]
        logps = log_probs.gather(1, labels[:, None]).squeeze(1)
        is_top1 = (logps >= log_probs.amax(-1)).float() if len(labels) else logps.clone()
        probs = log_probs.exp()
        entropy = -torch.linalg.vecdot(probs, log_probs)
        log_sum_sq = torch.linalg.vecdot(probs, probs).log() if sum_sq else torch.zeros_like(logps)
        ctx.save_for_backward(labels)
        ctx.probs, ctx.dtype = (probs if ctx.needs_input_grad[0] else None), logits.dtype
        ctx.mark_non_differentiable(entropy, mean_logits, is_top1, log_sum_sq)
        return logps, entropy, mean_logits, is_top1, log_sum_sq

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        (labels,) = ctx.saved_tensors
        assert ctx.probs is not None, "the backward of token log-probs can run once only"
        grad_logits, ctx.probs = ctx.probs.mul_(-grad[:, None]), None
        grad_logits.scatter_add_(1, labels[:, None], grad[:, None])
        return grad_logits.to(ctx.dtype), None, None
