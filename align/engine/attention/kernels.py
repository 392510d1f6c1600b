"""Attention of one run of queries to one run of keys: (output, log-sum-exp) and its backward, on every device.

q: `[1, heads, Lq, dim]`, k and v: `[1, heads, Lk, dim]`; output as q; log-sum-exp `[1, heads, Lq]`, float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_aten = torch.ops.aten


def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention with its log-sum-exp. `causal` needs Lq = Lk."""
    if q.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    if _cuda_flash(q):
        out, lse, *_ = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
        return out, lse
    return _math_forward(q, k, v, causal, scale)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v through this run's part of an attention whose merged output and log-sum-exp are given.

    With P = exp(scale q kᵀ − lse) and D = rowsum(grad · out), dS = P (grad vᵀ − D): so given the *merged* out and lse,
    each part's flash backward is exactly its share of the whole gradient.
    """
    if q.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse, 0.0, causal, scale=scale)
    if _cuda_flash(q):
        none = torch.zeros(2, dtype=torch.uint64, device=q.device)  # the dropout's random state: there is no dropout
        sizes = (None, None, q.shape[2], k.shape[2])
        return _aten._scaled_dot_product_flash_attention_backward(
            grad.contiguous(), q, k, v, out, lse.contiguous(), *sizes, 0.0, causal, none, none[:1], scale=scale
        )
    return _math_backward(grad, q, k, v, out, lse, causal, scale)


def _cuda_flash(q: Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= 256 and q.shape[-1] % 8 == 0


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if causal:
        length = q.shape[2]
        scores.masked_fill_(torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1), float("-inf"))
    return scores


def _math_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    scores = _scores(q, k, causal, scale)
    lse = scores.logsumexp(-1)
    return (scores.sub_(lse[..., None]).exp_().to(v.dtype)) @ v, lse


def _math_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    probs = _scores(q, k, causal, scale).sub_(lse[..., None]).exp_()
    delta = (grad.float() * out.float()).sum(-1, keepdim=True)
    grad_scores = (probs * ((grad @ v.transpose(-1, -2)).float() - delta)).to(q.dtype) * scale
    return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, probs.to(grad.dtype).transpose(-1, -2) @ grad
