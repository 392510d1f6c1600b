"""Compiled decoder layers: each one by itself, in place, so that saved weights and wrappers do not notice."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import maybe_install_capturing_hooks

logger = logging.getLogger(__name__)
_VARIANTS = 64  # of one layer's code: kinds of layers, policy and reference, with and without gradients, lengths of rows


def compile_layers(model: PreTrainedModel, backend: str = "inductor", mode: str | None = None) -> int:
    """Have each decoder layer compiled at its first call, for the very shapes it is called with.

    All layers of a kind, and of models of the same shape, share one compiled code. Rows must come in few lengths.

    Args:
        model: the bare model.
        backend: as `torch.compile`.
        mode: as `torch.compile`.

    Returns:
        How many layers; 0 where the architecture has none that are known as such.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        logger.warning("torch_compile is ignored: %s has no decoder layers that could be compiled one by one.", type(model).__name__)
        return 0
    if getattr(model.config, "output_router_logits", False):
        maybe_install_capturing_hooks(model)  # at the first call that wants the logits, as usual, compiled code would not see the hooks
    norm = getattr(model.base_model, "norm", None)
    for module in [*layers, *([norm] if isinstance(norm, nn.Module) else [])]:
        module.compile(dynamic=False, backend=backend, mode=mode)
    model._align_compiled = True
    return len(layers)


def uncompile_layers(model: PreTrainedModel) -> None:
    """Take back what `compile_layers` did, if it did."""
    if are_compiled(model):
        model._align_compiled = False
        for module in model.modules():
            module._compiled_call_impl = None


def are_compiled(model: PreTrainedModel) -> bool:
    """Whether `compile_layers` compiled the layers of a model."""
    return getattr(model, "_align_compiled", False)
