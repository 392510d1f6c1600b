"""FlexAttention with a block mask from the layout: for GPUs. (On a CPU torch has its forward only.)"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from align.engine.layout import Layout


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex_attention_tree(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """Tree attention by FlexAttention; arguments as `align.engine.attention.masked.gather_attention`."""
    from torch.nn.attention.flex_attention import flex_attention

    key = ("flex", window)
    if key not in layout.masks:
        layout.masks[key] = _block_mask(layout, window, q.device)
    attend = _compiled() if q.is_cuda else flex_attention

    def cap(score: Tensor, b: Tensor, h: Tensor, qi: Tensor, ki: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    return attend(
        q, k, v, score_mod=cap if softcap else None, block_mask=layout.masks[key], scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _block_mask(layout: Layout, window: int | None, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    ends, positions = layout.subtree_end, layout.position_ids

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        inside = (k <= q) & (q < ends[k])
        return inside if window is None else inside & (positions[q] - positions[k] < window)

    return create_block_mask(allowed, None, None, layout.length, layout.length, device=str(device))
