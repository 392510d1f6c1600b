"""Dense: one explicit mask over the row. The definition of tree attention, and the reference in tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.engine.layout import Layout


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Tree attention with one `[T, T]` mask; arguments as `align.engine.attention.registry.tree_attention`."""
    key = ("dense", window)
    if key not in layout.masks:
        layout.masks[key] = tree_mask(layout, window)
    return attend(q, k, v, layout.masks[key], scale, softcap, sinks)


def tree_mask(layout: Layout, window: int | None = None) -> Tensor:
    """`[T, T]` bool, True where query (row) may attend to key (column): k ≤ q < subtree_end[k], and the window by position."""
    index = torch.arange(layout.length, device=layout.position_ids.device)
    mask = (index[None] <= index[:, None]) & (index[:, None] < layout.subtree_end[None])
    if window is not None:
        mask &= layout.position_ids[:, None] - layout.position_ids[None] < window
    return mask


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None = None, sinks: Tensor | None = None
) -> Tensor:
    """Attention under a mask.

    Args:
        q: `[1, heads, Lq, dim]`.
        k: `[1, kv_heads, Lk, dim]`.
        v: `[1, kv_heads, Lk, dim]`.
        mask: `[Lq, Lk]` bool, True where allowed.
        scale: as `align.engine.attention.registry.tree_attention`.
        softcap: as `align.engine.attention.registry.tree_attention`.
        sinks: as `align.engine.attention.registry.tree_attention`.
    """
    grouped = q.shape[1] != k.shape[1]
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    queries = q.unflatten(1, (k.shape[1], -1)) * scale  # [1, kv_heads, group, Lq, dim]; before the product, which could overflow
    scores = queries @ k[:, :, None].transpose(-1, -2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, k.shape[1], -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], -1)
    probs = torch.softmax(scores, -1)
    return (probs[..., : k.shape[2]].to(v.dtype) @ v[:, :, None]).flatten(1, 2)
