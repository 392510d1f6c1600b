"""The attention backends, what each supports, and which one serves a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.engine.attention import kernels
from align.engine.attention.cascade import cascade_attention
from align.engine.attention.flex import flex_attention_tree
from align.engine.attention.masked import dense_attention
from align.engine.attention.paths import path_attention
from align.engine.layout import Layout


@dataclass(frozen=True)
class Use:
    """How a model is going to be called.

    Attributes:
        device, dtype: that it computes on and in (under autocast, not that of its weights).
        training: whether it is trained.
        compiled: whether its layers are compiled.
    """

    device: torch.device
    dtype: torch.dtype
    training: bool = True
    compiled: bool = False

    @classmethod
    def of(cls, model: Any, training: bool = True) -> Use:
        """As the model stands."""
        return cls(model.device, model.dtype, training)


@dataclass(frozen=True)
class Layer:
    """What an attention layer asks of a backend.

    Attributes:
        device, dtype, head_dim: of its queries.
        window: tokens that a query sees, itself included; None: all.
        softcap, sinks: whether the model's attention has them.
        training: whether there will be a backward.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    window: int | None = None
    softcap: bool = False
    sinks: bool = False
    training: bool = True


@dataclass(frozen=True)
class Backend:
    """A way to compute tree attention.

    Attributes:
        name: as settings name it.
        summary: how it computes and what it costs, for people.
        attend: arguments as `tree_attention` without the first.
        refuses: why it cannot serve a layer; None where it can.
        measured: whether `auto` considers it; the others are taken where no other can serve.
        compiled: whether it is compiled with a decoder layer; others interrupt the compiled graph.
    """

    name: str
    summary: str
    attend: Callable[..., Tensor]
    refuses: Callable[[Layer], str | None]
    measured: bool = True
    compiled: bool = False


def _cascade_refuses(layer: Layer) -> str | None:
    if layer.window is not None:
        return "the cascade has no windows"
    if layer.softcap or layer.sinks:
        return "the cascade has no soft-capping and no sinks"
    return _unfused(layer)


def _gather_refuses(layer: Layer) -> str | None:
    if layer.device.type == "cuda" and (layer.softcap or layer.sinks):
        return "flash attention has no soft-capping and no sinks"
    return _unfused(layer)


def _unfused(layer: Layer) -> str | None:
    """On a GPU in full precision a span at a time would be thousands of small kernels."""
    if layer.device.type == "cuda" and not kernels.has_varlen(layer.device, layer.dtype, layer.head_dim):
        return f"flash attention takes half precision and heads of up to 256, not {layer.dtype} and {layer.head_dim}"
    return None


def _flex_refuses(layer: Layer) -> str | None:
    if layer.device.type != "cuda" and layer.training:
        return f"FlexAttention has no backward on a {layer.device.type.upper()}"
    return None


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "cascade",
            "levels of the tree merged by log-sum-exp, 1 + depth flash calls per layer, memory linear in tokens",
            cascade_attention,
            _cascade_refuses,
        ),
        Backend(
            "gather",
            "every node against the gathered keys of its path, one flash call per layer, exact windows, keys copied per node",
            path_attention,
            _gather_refuses,
        ),
        Backend(
            "flex",
            "FlexAttention with a block mask, compiled, exact windows, soft-capping and sinks, training on GPUs alone",
            flex_attention_tree,
            _flex_refuses,
            compiled=True,
        ),
        Backend(
            "dense",
            "one explicit mask, the reference, memory and time quadratic in tokens",
            dense_attention,
            lambda layer: None,
            measured=False,
        ),
    )
}


def serving(name: str, layer: Layer) -> Backend:
    """The named backend, or the first one that can serve what it cannot."""
    order = (name, "gather", "flex", "dense") if name != "dense" else ("dense",)
    return next(BACKENDS[name] for name in order if BACKENDS[name].refuses(layer) is None)


def layer_in(layout: Layout, layer: Layer) -> Layer:
    """What a layer asks of a backend on a row: nothing of its window where no sequence is long enough to reach its end."""
    return replace(layer, window=None) if layer.window is not None and layer.window >= layout.max_position else layer


def candidates(layers: list[Layer]) -> list[str]:
    """Backends that `auto` chooses from: those that serve at least one of the model's layers themselves."""
    return [name for name, backend in BACKENDS.items() if backend.measured and any(backend.refuses(layer) is None for layer in layers)]


def tree_attention(
    backend: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Tree attention by the named backend, or by one that can do what it cannot (`serving`).

    Args:
        backend: a name of `BACKENDS`.
        q: `[1, heads, T, dim]`.
        k: `[1, kv_heads, T, dim]`; heads a multiple of kv_heads.
        v: `[1, kv_heads, T, dim]`; heads a multiple of kv_heads.
        layout: the row's tree structure.
        scale: of the scores, usually dim^−½.
        window: a query at position p sees keys at positions above p − window.
        softcap: scores become softcap · tanh(scores / softcap).
        sinks: `[heads]`, a logit per head that takes part in the softmax and carries no value (gpt-oss).

    Returns:
        `[1, heads, T, dim]`.
    """
    needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    layer = Layer(q.device, q.dtype, q.shape[-1], window, softcap is not None, sinks is not None, needs_grad)
    layer_here = layer_in(layout, layer)
    server = serving(backend, layer_here)
    if not server.compiled:  # one mask serves compiled and other calls
        window = layer_here.window
    return server.attend(q, k, v, layout, scale, window, softcap, sinks)


def described() -> str:
    """The backends with a sentence each, for help texts."""
    return "; ".join(f"{backend.name} ({backend.summary})" for backend in BACKENDS.values())


def layers_of(model: Any, use: Use) -> list[Layer]:
    """The kinds of attention layers that a model's configuration describes."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    softcap = bool(getattr(config, "attn_logit_softcapping", None)) and softcapped(model)
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    windows = sorted(windows_of(config), key=lambda window: window or 0)
    return [Layer(use.device, use.dtype, head_dim, window, softcap, sinks, use.training) for window in windows]


def windows_of(config: Any) -> set[int | None]:
    """The windows of the model's attention layers; None: no window."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window:
        return {None}
    if kinds:
        return {window if kind == "sliding_attention" else None for kind in kinds}
    return {window} if getattr(config, "use_sliding_window", True) else {None}


def softcapped(model: Any) -> bool:
    """Whether the model's own attention applies its soft-capping: transformers' sdpa leaves it out."""
    implementation: str = model.config._attn_implementation
    return implementation.rsplit("_over_", 1)[-1] != "sdpa"
