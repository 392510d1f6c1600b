"""Cascade: every span attends causally to itself, and all its descendants, one interval, attend to it un-masked.

The parts of a token's attention are merged by their log-sum-exp. No mask, memory linear in tokens. On a GPU all spans of
a level go through one variable-length flash call, with as many calls as the tree has levels; elsewhere span by span.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.engine.attention import kernels, plans
from align.engine.layout import Layout


def cascade_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Tree attention without window, soft-capping and sinks; arguments as `align.engine.attention.registry.tree_attention`."""
    assert (window, softcap, sinks) == (None, None, None)
    if not kernels.has_varlen(q.device, q.dtype, q.shape[-1]):
        return _BySpan.apply(q, k, v, layout, scale)
    levels: plans.Levels = layout.plan("levels", plans.levels)
    tokens = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
    return _ByLevel.apply(*tokens, levels, scale).transpose(0, 1)[None]


class _BySpan(torch.autograd.Function):
    """q `[1, heads, T, dim]`, k and v `[1, kv_heads, T, dim]`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty(q.shape, dtype=wide, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=wide, device=q.device)
        for span in layout.spans:
            own = slice(span.start, span.end)
            out[:, :, own], lse[:, :, own] = kernels.forward(q[:, :, own], k[:, :, own], v[:, :, own], True, scale)
        for segment in plans.spans_with_descendants(layout):
            below, above = slice(segment.query_start, segment.query_end), slice(segment.key_start, segment.key_end)
            part, part_lse = kernels.forward(q[:, :, below], k[:, :, above], v[:, :, above], False, scale)
            share = torch.sigmoid(part_lse - lse[:, :, below])  # e^part / (e^part + e^lse)
            out[:, :, below].lerp_(part.to(wide), share[..., None])
            torch.logaddexp(lse[:, :, below], part_lse, out=lse[:, :, below])
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
            add(slice(span.start, span.end), slice(span.start, span.end), True)
        for segment in plans.spans_with_descendants(ctx.layout):
            add(slice(segment.query_start, segment.query_end), slice(segment.key_start, segment.key_end), False)
        dq, dk, dv = (g.to(q.dtype) for g in grads)
        return dq, dk, dv, None, None


class _ByLevel(torch.autograd.Function):
    """q `[T, heads, dim]`, k and v `[T, kv_heads, dim]`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, levels: plans.Levels, scale: float) -> Tensor:
        out, lse = kernels.varlen_forward(q, k, v, levels.own, True, scale)
        if levels.below:
            merged = out.to(lse.dtype)
            for queries, keys, runs in levels.below:
                part, part_lse = kernels.varlen_forward(q[queries], k[keys], v[keys], runs, False, scale)
                own_lse = lse[:, queries]
                share = torch.sigmoid(part_lse - own_lse).t()[..., None]  # e^part / (e^part + e^own)
                merged.index_copy_(0, queries, torch.lerp(merged[queries], part.to(lse.dtype), share))
                lse.index_copy_(1, queries, torch.logaddexp(own_lse, part_lse))
            out = merged.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.levels, ctx.scale = levels, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        grad = grad.contiguous()
        own = kernels.varlen_backward(grad, q, k, v, out, lse, ctx.levels.own, True, ctx.scale)
        if not ctx.levels.below:
            return *own, None, None
        grads = [g.to(lse.dtype) for g in own]
        for queries, keys, runs in ctx.levels.below:
            parts = kernels.varlen_backward(
                grad[queries], q[queries], k[keys], v[keys], out[queries], lse[:, queries], runs, False, ctx.scale
            )
            for total, part, where in zip(grads, parts, (queries, keys, keys), strict=True):
                total.index_add_(0, where, part.to(lse.dtype))
        dq, dk, dv = (g.to(q.dtype) for g in grads)
        return dq, dk, dv, None, None
