"""The LM head on scored tokens only: token log-probs without the logits of the whole batch ever existing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from align.engine import fused

# In elements of logits (rows times vocabulary).
KEEP = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Up to here the logits are kept for the backward; above, each chunk is computed again."""
_CHUNK = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Logits in memory at a time with a backward to come. A CPU works best within its cache, a GPU on large matrix products."""
_SCORING_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 28}
"""The same without a backward: on a CPU matrix products like more rows."""
_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits that one operation works on at a time, where nothing is compiled."""


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


def score_tokens(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    vocab_size: int,
    sum_sq: bool = False,
    statistics: bool = True,
    most: int | None = None,
) -> TokenScores:
    """Log-probs of labels given hidden states, in chunks.

    Small batches keep their logits for the backward; from `KEEP` on, each chunk is recomputed.

    Args:
        head: hidden states `[n, d]` → logits `[n, vocab]`.
        hidden: `[S, d]`.
        labels: `[S]`.
        vocab_size: width of the logits, for choosing the chunks.
        sum_sq: also compute `log_sum_sq_probs` (zero otherwise).
        statistics: also compute `entropy`, `mean_logits` and `is_top1` (zero otherwise).
        most: the number of labels of the rank that has most, where all ranks must call the head equally often.
    """
    count = max(len(labels), most or 0)
    device = hidden.device.type if hidden.device.type in KEEP else "cuda"
    chunk = max(32, (_CHUNK if torch.is_grad_enabled() else _SCORING_CHUNK)[device] // vocab_size)
    recompute = torch.is_grad_enabled() and count * vocab_size > KEEP[device]
    scores = _FusedLabelLogps if fused.works_on(hidden.device) else _LabelLogps

    def run(part: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return scores.apply(head(part), targets, sum_sq, statistics)

    parts = []
    for start in range(0, max(count, 1), chunk):  # an empty part calls the head, too: its parameters take part
        args = (hidden[start : start + chunk], labels[start : start + chunk])
        parts.append(checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False) if recompute else run(*args))
    return TokenScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _FusedLabelLogps(torch.autograd.Function):
    """As `_LabelLogps`, in one compiled pass over the logits, which keep their type and are overwritten in the backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, sum_sq: bool, statistics: bool) -> tuple[Tensor, ...]:
        if statistics or sum_sq:
            logps, lse, *rest = fused.label_scores(logits, labels)
        else:
            logps, lse = fused.label_logps(logits, labels)
            rest = [torch.zeros_like(logps) for _ in range(4)]
        ctx.save_for_backward(labels, lse)
        ctx.logits = logits if ctx.needs_input_grad[0] else None
        ctx.mark_non_differentiable(*rest)
        return logps, *rest

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        labels, lse = ctx.saved_tensors
        assert ctx.logits is not None, "the backward of token log-probs can run once only"
        logits, ctx.logits = ctx.logits, None
        return fused.label_gradients_(logits, labels, lse, grad), None, None, None


class _LabelLogps(torch.autograd.Function):
    """log-softmax at the labels, and statistics, block by block so that each block stays in the cache.

    The logits' memory is overwritten: with the exponentials in the forward, with the gradient in the backward. Nobody
    else reads it, as the head's last operation (a linear map, or a product with a number) does not keep its output.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, sum_sq: bool, statistics: bool) -> tuple[Tensor, ...]:
        values = logits.float()
        rows = len(labels)
        out = torch.zeros(5, rows, dtype=torch.float32, device=values.device)
        block = max(1, _BLOCK.get(values.device.type, 1 << 26) // values.shape[-1])
        for start in range(0, rows, block):
            part = slice(start, start + block)
            _block(values[part], labels[part], out[:, part], statistics)
        normalizer = out[4]
        ctx.save_for_backward(labels, normalizer)
        ctx.exps, ctx.dtype = (values if ctx.needs_input_grad[0] else None), logits.dtype
        logps, entropy, mean_logits, is_top1 = out[0], out[1], out[2], out[3]
        log_sum_sq = _log_sum_sq(values, normalizer) if sum_sq else torch.zeros_like(logps)
        results = (logps.clone(), entropy, mean_logits, is_top1, log_sum_sq)
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        labels, normalizer = ctx.saved_tensors
        assert ctx.exps is not None, "the backward of token log-probs can run once only"
        grad_logits, ctx.exps = ctx.exps.mul_((-grad / normalizer)[:, None]), None
        grad_logits.scatter_add_(1, labels[:, None], grad[:, None])
        return grad_logits.to(ctx.dtype), None, None, None


def _block(values: Tensor, labels: Tensor, out: Tensor, statistics: bool) -> None:
    """Turn logits into exponentials, in place, and write logps, entropy, mean logit, top-1 and normalizer to `out` `[5, rows]`."""
    largest = values.amax(-1)
    values.sub_(largest[:, None])
    label = values.gather(1, labels[:, None]).squeeze(1)
    if statistics:
        exps = values.exp()
        total = exps.sum(-1)
        out[1] = total.log() - torch.linalg.vecdot(exps, values) / total
        out[2] = values.mean(-1) + largest
        out[3] = label >= 0
        values.copy_(exps)
    else:
        total = values.exp_().sum(-1)
    out[0] = label - total.log()
    out[4] = total


def _log_sum_sq(exps: Tensor, normalizer: Tensor) -> Tensor:
    return torch.linalg.vecdot(exps, exps).log() - 2 * normalizer.log()
