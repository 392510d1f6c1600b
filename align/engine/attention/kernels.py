"""Attention with its log-sum-exp and its backward: of one run of queries to one run of keys, and of many runs at once.

One run: q `[1, heads, Lq, dim]`, k and v `[1, kv_heads, Lk, dim]`; output as q; log-sum-exp `[1, heads, Lq]`, float32.
Many runs (`varlen_…`, flash kernels of GPUs): q `[Q, heads, dim]`, k and v `[K, kv_heads, dim]`; log-sum-exp `[heads, Q]`.
Heads are a multiple of kv_heads, head h reading key-value head h // (heads / kv_heads).
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.engine.attention.plans import Runs

_aten = torch.ops.aten


def has_varlen(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch has variable-length flash attention for this: on GPUs from Ampere on, in half precision."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or head_dim > 256 or head_dim % 8:
        return False
    if torch.version.hip is not None or not torch.cuda.is_available():  # not CUDA's; or asked about a GPU that is elsewhere
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_forward(
    q: Tensor, k: Tensor, v: Tensor, runs: Runs, causal: bool, scale: float, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention of every run of queries to its run of keys, with its log-sum-exp.

    Args:
        q: the runs' tokens, one run after the other.
        k: the runs' tokens, one run after the other.
        v: the runs' tokens, one run after the other.
        runs: their bounds.
        causal: aligned at the end of queries and keys.
        scale: of the scores.
        window: with `causal`, how many keys a query sees.
    """
    bounds = (runs.query_bounds, runs.key_bounds, runs.longest_queries, runs.longest_keys)
    out, lse, *_ = _aten._flash_attention_forward(q, k, v, *bounds, 0.0, causal, False, scale=scale, **_sides(causal, window))
    return out, lse


def varlen_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    runs: Runs,
    causal: bool,
    scale: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v through these runs' part of an attention whose merged output and log-sum-exp are given (see `backward`)."""
    none = torch.zeros(2, dtype=torch.uint64, device=q.device)  # the dropout's random state: there is no dropout
    bounds = (runs.query_bounds, runs.key_bounds, runs.longest_queries, runs.longest_keys)
    return _aten._flash_attention_backward(
        grad, q, k, v, out, lse.contiguous(), *bounds, 0.0, causal, none, none[:1], scale=scale, **_sides(causal, window)
    )


def _sides(causal: bool, window: int | None) -> dict[str, int]:
    return {"window_size_left": window - 1, "window_size_right": 0} if causal and window is not None else {}


def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention with its log-sum-exp. `causal` needs Lq = Lk."""
    if q.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
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
    return _math_backward(grad, q, k, v, out, lse, causal, scale)


def _by_group(x: Tensor, kv_heads: int) -> Tensor:
    """`[1, heads, …]` → `[kv_heads, heads / kv_heads, …]`: query heads beside those that read the same keys."""
    return x.unflatten(1, (kv_heads, -1))[0]


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """`[kv_heads, group, Lq, Lk]`, in float32 at least."""
    scores = _by_group(q, k.shape[1]) @ k[0, :, None].transpose(-1, -2)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)) * scale
    if causal:
        length = q.shape[2]
        scores.masked_fill_(torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1), float("-inf"))
    return scores


def _math_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    scores = _scores(q, k, causal, scale)
    lse = scores.logsumexp(-1)
    out = scores.sub_(lse[..., None]).exp_().to(v.dtype) @ v[0, :, None]
    return out.flatten(0, 1)[None], lse.flatten(0, 1)[None]


def _math_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    kv_heads = k.shape[1]
    grad, queries, out, lse = (_by_group(x, kv_heads) for x in (grad, q, out, lse))
    keys, values = k[0, :, None], v[0, :, None]
    probs = _scores(q, k, causal, scale).sub_(lse[..., None]).exp_()
    delta = (grad.to(probs.dtype) * out.to(probs.dtype)).sum(-1, keepdim=True)
    grad_scores = (probs * ((grad @ values.transpose(-1, -2)).to(probs.dtype) - delta)).to(q.dtype) * scale
    dq = (grad_scores @ keys).flatten(0, 1)[None]
    dk = (grad_scores.transpose(-1, -2) @ queries).sum(1)[None]
    dv = (probs.to(grad.dtype).transpose(-1, -2) @ grad).sum(1)[None]
    return dq, dk, dv
