"""Tree attention backends, registered through transformers' `AttentionInterface`.

A model whose implementation is set to one of ours runs as before (through the implementation it had) unless a call
carries `tree_layout`: then its attention follows the tree.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from align.engine.attention import kernels, plans
from align.engine.attention.flex import block_mask, flex_attention_tree
from align.engine.attention.masked import tree_mask
from align.engine.attention.registry import (
    BACKENDS,
    Backend,
    Layer,
    Use,
    candidates,
    described,
    layer_in,
    layers_of,
    serving,
    tree_attention,
    windows_of,
)
from align.engine.layout import Layout

_PREFIX = "align_"
_interrupting = torch.compiler.disable(tree_attention)  # loops and flash calls of changing sizes are no part of a compiled layer


def use_backend(model: PreTrainedModel, backend: str) -> None:
    """Give `model` the attention backend. Calls without `tree_layout` keep the implementation the model had.

    Raises:
        ValueError: the model does not go through transformers' attention interface.
    """
    base = base_implementation(model)
    name = f"{_PREFIX}{backend}_over_{base}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _interface(backend, base))
        if base in ALL_MASK_ATTENTION_FUNCTIONS:
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    if not model._can_set_attn_implementation():
        raise ValueError(f"{type(model).__name__} does not go through transformers' attention interface")
    model.config._attn_implementation = name


def restore(model: PreTrainedModel) -> None:
    """Give `model` back the attention implementation it had."""
    model.config._attn_implementation = base_implementation(model)


def base_implementation(model: PreTrainedModel) -> str:
    """The implementation that calls without a tree use."""
    name: str = model.config._attn_implementation
    return name.split("_over_", 1)[1] if name.startswith(_PREFIX) else name


def prepare(layout: Layout, model: PreTrainedModel, backend: str) -> None:
    """Make what a compiled layer reads of the row: nothing is made inside of a compiled graph."""
    if BACKENDS[backend].compiled:
        for window in windows_of(model.config.get_text_config()):
            block_mask(layout, window)


@dataclass(frozen=True)
class Plans:
    """Makes ready, when a row is packed, the index tensors that the attention layers of a model read.

    Attributes:
        backend: the one installed.
        layers: the kinds of attention layers.
    """

    backend: str
    layers: tuple[Layer, ...]

    def __call__(self, layout: Layout) -> None:
        """Make the plans of a row, which keeps them."""
        for layer in self.layers:
            name = serving(self.backend, layer_in(layout, layer)).name
            if name == "flex":
                layout.plan(("blocks", layer.window), functools.partial(plans.blocks, window=layer.window))
            elif name in ("cascade", "gather") and kernels.has_varlen(layer.device, layer.dtype, layer.head_dim):
                layout.plan(*(("levels", plans.levels) if name == "cascade" else ("paths", plans.paths)))


def plans_for(model: PreTrainedModel, backend: str, use: Use) -> Plans:
    """What a model with a backend reads of its rows."""
    return Plans(backend, tuple(layers_of(model, use)))


def _interface(backend: str, base: str) -> Callable[..., Any]:
    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        tree_layout: Layout | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if tree_layout is None:
            extra = {"sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux}
            kwargs |= {name: value for name, value in extra.items() if value is not None}
            return _plain(base, module)(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
        if not torch.compiler.is_compiling():  # the probe has called every layer outside of a compiled graph
            _refuse_what_a_tree_cannot(module, dropout, sliding_window)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = _one_dtype(query, key, value)
        cap = softcap if base != "sdpa" else None  # transformers' sdpa leaves soft-capping out
        if BACKENDS[backend].compiled and torch.compiler.is_compiling():
            out = flex_attention_tree(query, key, value, tree_layout, scale, sliding_window, cap, s_aux)
        else:
            out = _interrupting(backend, query, key, value, tree_layout, scale, sliding_window, cap, s_aux)
        return out.transpose(1, 2).contiguous(), None

    return attention


def _one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, what torch's own attention would do: rotary embeddings leave q and k in another type than v."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


def _plain(base: str, module: Any) -> Callable[..., Any]:
    if base in ALL_ATTENTION_FUNCTIONS:
        return ALL_ATTENTION_FUNCTIONS[base]
    return sys.modules[type(module).__module__].eager_attention_forward


def _refuse_what_a_tree_cannot(module: Any, dropout: float, window: int | None) -> None:
    if dropout:
        raise NotImplementedError("tree attention has no dropout: set `disable_dropout=True` (the default)")
    if not getattr(module, "is_causal", True):
        raise NotImplementedError(f"{type(module).__name__} is not causal")
    layer_types = getattr(module.config, "layer_types", None)
    if layer_types and window is None and layer_types[module.layer_idx] not in ("full_attention", "attention"):
        raise NotImplementedError(f"{type(module).__name__} has {layer_types[module.layer_idx]} layers that tell their span by a mask only")


__all__ = [
    "BACKENDS", "Backend", "Layer", "Plans", "Use", "base_implementation", "candidates", "described", "layer_in", "layers_of", "plans_for",
    "prepare", "restore", "serving", "tree_attention", "tree_mask", "use_backend", "windows_of",
]  # fmt: skip
