"""How long attention backends take on a row: random queries, keys and values of the model's shapes, forward and backward."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from align.engine.attention import Layer, tree_attention
from align.engine.layout import Layout

_REPEATS = 3


def seconds_per_layer(backends: list[str], layers: list[Layer], config: Any, layout: Layout) -> dict[str, float]:
    """Seconds of one layer's attention, forward and backward, in the mean over the kinds of layers; the median of three after a warm-up.

    Args:
        backends: names; one that fails is left out.
        layers: the kinds of attention layers.
        config: of the model, for the numbers of heads.
        layout: of a row.
    """
    seconds = {}
    for backend in backends:
        try:
            seconds[backend] = sum(_seconds(backend, layer, config, layout) for layer in layers) / len(layers)
        except Exception:  # the probe says why
            continue
    return seconds


def _seconds(backend: str, layer: Layer, config: Any, layout: Layout) -> float:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    shape = (layout.length, layer.head_dim)
    q, k, v = (torch.randn(1, n, *shape, device=layer.device, dtype=layer.dtype).requires_grad_() for n in (heads, kv_heads, kv_heads))
    softcap = 30.0 if layer.softcap else None
    sinks = torch.zeros(heads, device=layer.device, dtype=layer.dtype) if layer.sinks else None
    gradient = torch.randn_like(q)

    def once() -> float:
        start = time.perf_counter()
        with torch.enable_grad():
            out = tree_attention(backend, q, k, v, layout, layer.head_dim**-0.5, layer.window, softcap, sinks)
            torch.autograd.grad(out, (q, k, v), gradient)
        if q.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(_REPEATS))
