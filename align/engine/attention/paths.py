"""Gathered paths: every span's queries against the keys of its root-to-span path. Windows are exact; keys are copied per span."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.engine.attention import kernels, plans
from align.engine.attention.masked import attend
from align.engine.layout import Layout


def path_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Tree attention; arguments as `align.engine.attention.registry.tree_attention`. On a GPU one variable-length flash call."""
    if softcap is None and sinks is None and kernels.has_varlen(q.device, q.dtype, q.shape[-1]):
        all_paths: plans.Paths = layout.plan("paths", plans.paths)
        tokens = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
        return _AllPaths.apply(*tokens, all_paths, scale, window).transpose(0, 1)[None]
    outputs = []
    for number, span in enumerate(layout.spans):
        path = layout.path(number)
        keys = torch.cat([k[:, :, s.start : s.end] for s in path], 2)
        values = torch.cat([v[:, :, s.start : s.end] for s in path], 2)
        mask = _path_mask(span.depth, span.end - span.start, window, q.device)
        outputs.append(attend(q[:, :, span.start : span.end], keys, values, mask, scale, softcap, sinks))
    return torch.cat(outputs, 2)


def _path_mask(depth: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """`[length, depth + length]`: along a path, index is position."""
    queries = torch.arange(depth, depth + length, device=device)[:, None]
    keys = torch.arange(depth + length, device=device)[None]
    mask = keys <= queries
    return mask if window is None else mask & (keys > queries - window)


class _AllPaths(torch.autograd.Function):
    """q `[T, heads, dim]`, k and v `[T, kv_heads, dim]`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, paths: plans.Paths, scale: float, window: int | None) -> Tensor:
        out, lse = kernels.varlen_forward(q, k[paths.keys], v[paths.keys], paths.runs, True, scale, window)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.paths, ctx.scale, ctx.window = paths, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        keys = ctx.paths.keys
        dq, *parts = kernels.varlen_backward(grad.contiguous(), q, k[keys], v[keys], out, lse, ctx.paths.runs, True, ctx.scale, ctx.window)
        dk, dv = (torch.zeros(k.shape, dtype=lse.dtype, device=k.device).index_add_(0, keys, part.to(lse.dtype)) for part in parts)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, None
