"""Compiled decoder layers: each one by itself, in place, so that saved weights and wrappers do not notice."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

logger = logging.getLogger(__name__)
_VARIANTS = 64  # of one layer's code: kinds of layers, policy and reference, with and without gradients, lengths of rows


def compile_layers(model: PreTrainedModel, backend: str = "inductor", mode: str | None = None) -> int:
    """Have each decoder layer compiled at its first call, for the very shapes it is called with.

    All layers of a kind, and of models of the same shape, share one compiled code. Rows must come in few lengths.

    Args:
        model: the bare model.
        backend, mode: as `torch.compile`.

    Returns:
        How many layers; 0 where the architecture has none that are known as such.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    norm = getattr(model.base_model, "norm", None)
    for module in [*layers, *([norm] if isinstance(norm, nn.Module) and layers else [])]:
        module.compile(dynamic=False, backend=backend, mode=mode)
    if not layers:
        logger.warning(
            "torch_compile: %s has no decoder layers that could be compiled one by one; it goes on without.", type(model).__name__
        )
    return len(layers)
