"""Cascade: every node attends causally to itself, and all its descendants, one slice, attend to it un-masked.

The parts of a token's attention are merged by their log-sum-exp. No mask, no copy of keys, memory linear in tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.engine.attention import kernels
from align.engine.layout import Layout


def cascade_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """Tree attention.

    Args:
        q: `[1, heads, T, dim]`.
        k, v: `[1, kv_heads, T, dim]`; heads a multiple of kv_heads.
        layout: the row's tree structure.
        scale: of the scores, usually dim^−½.

    Returns:
        `[1, heads, T, dim]`.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return _Cascade.apply(q, k, v, layout, scale)


class _Cascade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty(q.shape, dtype=wide, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=wide, device=q.device)
        for span in layout.spans:
            own = slice(span.start, span.end)
            if span.end > span.start:
                out[:, :, own], lse[:, :, own] = kernels.forward(q[:, :, own], k[:, :, own], v[:, :, own], True, scale)
        for span in layout.spans:
            if span.subtree_end > span.end > span.start:
                own, below = slice(span.start, span.end), slice(span.end, span.subtree_end)
                part, part_lse = kernels.forward(q[:, :, below], k[:, :, own], v[:, :, own], False, scale)
                _merge(out[:, :, below], lse[:, :, below], part, part_lse)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        grads = [torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (q, k, v)]

        def add(queries: slice, keys: slice, causal: bool) -> None:
            parts = kernels.backward(
                grad[:, :, queries],
                q[:, :, queries],
                k[:, :, keys],
                v[:, :, keys],
                out[:, :, queries],
                lse[:, :, queries],
                causal,
                ctx.scale,
            )
            for total, part, where in zip(grads, parts, (queries, keys, keys), strict=True):
                total[:, :, where] += part

        for span in ctx.layout.spans:
            if span.end > span.start:
                own = slice(span.start, span.end)
                add(own, own, True)
                if span.subtree_end > span.end:
                    add(slice(span.end, span.subtree_end), own, False)
        dq, dk, dv = (g.to(q.dtype) for g in grads)
        return dq, dk, dv, None, None


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Fold a further part into `out` and `lse`, in place: a softmax over the union of both key sets."""
    share = torch.sigmoid(part_lse - lse)  # e^part / (e^part + e^lse)
    out.lerp_(part.to(out.dtype), share[..., None])
    torch.logaddexp(lse, part_lse, out=lse)
