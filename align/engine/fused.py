"""Log-probs of labels, statistics and gradients in one compiled pass over the logits each. For GPUs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def _label_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    values = logits.float()
    largest = values.amax(-1, keepdim=True)
    shifted = values - largest
    exps = shifted.exp()
    total = exps.sum(-1)
    log_total = total.log()
    label = shifted.gather(1, labels[:, None]).squeeze(1)
    entropy = log_total - (exps * shifted).sum(-1) / total
    log_sum_sq = (exps * exps).sum(-1).log() - 2 * log_total
    return label - log_total, log_total + largest.squeeze(1), entropy, values.mean(-1), (label >= 0).float(), log_sum_sq


def _label_logps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    values = logits.float()
    lse = values.logsumexp(-1)
    return values.gather(1, labels[:, None]).squeeze(1) - lse, lse


def _label_gradients(logits: Tensor, labels: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    probs = (logits.float() - lse[:, None]).exp()
    is_label = torch.arange(logits.shape[-1], device=logits.device)[None] == labels[:, None]
    return logits.copy_(grad[:, None] * (is_label.float() - probs))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def label_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Of each row: log π(label), log-sum-exp, entropy, mean logit, whether the label is the most likely, log Σ π².

    Args:
        logits: `[n, vocab]`.
        labels: `[n]`.

    Returns:
        Six of `[n]`, float32.
    """
    return _compiled(_label_scores)(_of_any_length(logits), _of_any_length(labels))


def label_logps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first two of `label_scores`, where nobody reads the others."""
    return _compiled(_label_logps)(_of_any_length(logits), _of_any_length(labels))


def label_gradients_(logits: Tensor, labels: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits, written over them, given that of the labels' log-probs `[n]`."""
    return _compiled(_label_gradients)(*(_of_any_length(x) for x in (logits, labels, lse, grad)))


def _of_any_length(x: Tensor) -> Tensor:
    """Its number of rows is no constant of the compiled code."""
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


@functools.cache
def works_on(device: torch.device) -> bool:
    """Whether compiled code can be had on this device; asked once, by compiling it."""
    if device.type != "cuda":
        return False
    try:
        logits, labels = torch.randn(64, 512, device=device), torch.arange(64, device=device)
        lse = label_scores(logits, labels)[1]
        label_gradients_(logits, labels, lse, lse)
    except Exception as error:  # no compiler, no Triton: whatever a machine lacks
        logger.warning("Nothing can be compiled here (%s): log-probs are computed in several passes.", str(error).splitlines()[0][:200])
        return False
    return True
