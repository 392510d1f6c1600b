"""Backends with explicit masks: gather (each node against the keys of its path) and dense (one mask, the reference)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.engine.layout import Layout


def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Tree attention, node by node against the keys of its root-to-node path.

    Args:
        q: `[1, heads, T, dim]`.
        k, v: `[1, kv_heads, T, dim]`.
        layout: the row's tree structure.
        scale: of the scores.
        window: a query at position p sees keys at positions above p − window.
        softcap: scores become softcap · tanh(scores / softcap).
        sinks: `[heads]`, a logit a head that takes part in the softmax and carries no value (gpt-oss).

    Returns:
        `[1, heads, T, dim]`.
    """
    groups = q.shape[1] // k.shape[1]
    outputs = []
    for number, span in enumerate(layout.spans):
        if span.end == span.start:
            continue
        path = layout.path(number)
        keys = torch.cat([k[:, :, s.start : s.end] for s in path], 2)
        values = torch.cat([v[:, :, s.start : s.end] for s in path], 2)
        mask = _path_mask(span.depth, span.end - span.start, window, q.device)
        outputs.append(_attend(q[:, :, span.start : span.end], keys, values, mask, groups, scale, softcap, sinks))
    return torch.cat(outputs, 2)


def _path_mask(depth: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """`[length, depth + length]`: along a path, index is position."""
    queries = torch.arange(depth, depth + length, device=device)[:, None]
    keys = torch.arange(depth + length, device=device)[None]
    mask = keys <= queries
    return mask if window is None else mask & (keys > queries - window)


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Tree attention with one `[T, T]` mask: k ≤ q < subtree_end[k], and the window by position. Arguments as `gather_attention`."""
    key = ("dense", window)
    if key not in layout.masks:
        layout.masks[key] = tree_mask(layout, window)
    mask = layout.masks[key]
    assert isinstance(mask, Tensor)
    return _attend(q, k, v, mask, q.shape[1] // k.shape[1], scale, softcap, sinks)


def tree_mask(layout: Layout, window: int | None = None) -> Tensor:
    """`[T, T]` bool, True where query (row) may attend to key (column)."""
    index = torch.arange(layout.length, device=layout.position_ids.device)
    mask = (index[None] <= index[:, None]) & (index[:, None] < layout.subtree_end[None])
    if window is not None:
        mask &= layout.position_ids[:, None] - layout.position_ids[None] < window
    return mask


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, groups: int, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.float().reshape(1, -1, 1, 1).expand(1, -1, q.shape[2], 1)
        scores = torch.cat([scores, column], -1)
    probs = torch.softmax(scores, -1)
    return probs[..., : k.shape[2]].to(v.dtype) @ v
