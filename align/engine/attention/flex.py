"""FlexAttention with a block mask from the layout: for GPUs. (On a CPU torch has its forward only.)"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from align.engine.attention import plans
from align.engine.layout import Layout


def flex_attention_tree(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Tree attention; arguments as `align.engine.attention.registry.tree_attention`.

    Inside of a compiled layer FlexAttention is compiled with it, else by itself, for each length of row.
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    attend = flex_attention if torch.compiler.is_compiling() or not q.is_cuda else _compiled()
    options: dict[str, Any] = {"block_mask": block_mask(layout, window), "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if softcap is not None:
        options["score_mod"] = _capped(softcap)
    if sinks is None:
        return attend(q, k, v, **options)
    out, aux = attend(q, k, v, **options, return_aux=AuxRequest(lse=True))
    share = torch.sigmoid(aux.lse - sinks.to(aux.lse.dtype)[None, :, None])  # what the sinks leave of the softmax
    return out * share[..., None].to(out.dtype)


def block_mask(layout: Layout, window: int | None) -> Any:
    """The row's `BlockMask`, made once per row and window."""
    key = ("flex", window)
    if key not in layout.masks:
        layout.masks[key] = _made(layout, window)
    return layout.masks[key]


def _made(layout: Layout, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    blocks: plans.Blocks = layout.plan(("blocks", window), functools.partial(plans.blocks, window=window))
    lengths = (layout.length, layout.length)
    return BlockMask(
        seq_lengths=lengths,
        **blocks._asdict(),
        BLOCK_SIZE=(plans.BLOCK, plans.BLOCK),
        mask_mod=_allowed(layout.subtree_end, layout.position_ids, window),
    )


def _allowed(ends: Tensor, positions: Tensor, window: int | None) -> Callable[..., Tensor]:
    def inside(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < ends[k])

    if window is None:
        return inside

    def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < ends[k]) & (positions[q] - positions[k] < window)

    return near


def _capped(softcap: float) -> Callable[..., Tensor]:
    def cap(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
