"""`use_liger_kernel` and `torch_compile`, by the names that users know, made to work with trees; and trl's own head taken off."""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils import is_liger_kernel_available

from align.engine import BACKENDS, ProbeResult
from align.engine.attention import Use, layers_of
from align.errors import AlignError
from align.files import DamagedError, read_json, write_json
from align.trainers.config import PreferenceConfig
from align.trainers.sharding import sharding

logger = logging.getLogger(__name__)
CHOICE = "attention.json"
_LOSSES_OF_LIGER = {"fused_linear_cross_entropy": False, "cross_entropy": False}


@contextlib.contextmanager
def unknown_to_trl(args: PreferenceConfig) -> Iterator[None]:
    """Hide settings that trl or accelerate would act on in ways of their own: the loss of Liger, a model compiled as a whole.

    Our registry decides which losses take an f-divergence; trl's own list is shown the default.
    """
    hidden = {"f_divergence_type": "reverse_kl", "use_liger_kernel": False, "torch_compile_backend": None, "torch_compile_mode": None}
    given = {name: getattr(args, name) for name in hidden}
    for name, value in hidden.items():
        setattr(args, name, value)
    try:
        yield
    finally:
        for name, value in given.items():
            setattr(args, name, value)


def kept_choice(args: PreferenceConfig, model: PreTrainedModel, use: Use) -> str | None:
    """The attention backend that was the quickest when this training began, if what it was timed for is the same now."""
    if args.attention_backend != "auto" or use.device.type != "cuda":
        return None
    with contextlib.suppress(DamagedError):
        kept = read_json(Path(args.output_dir) / CHOICE, lambda content: isinstance(content, dict) and content.get("backend") in BACKENDS)
        if kept and kept.get("timed_for") == _timed_for(args, model, use):
            return str(kept["backend"])
    return None


def keep_choice(args: PreferenceConfig, model: PreTrainedModel, use: Use, choice: ProbeResult) -> None:
    """Write down what was timed, for when the training goes on, and for people."""
    if not choice.seconds:
        return
    content = {"backend": choice.backend, "seconds_per_layer": choice.seconds, "timed_for": _timed_for(args, model, use)}
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    write_json(Path(args.output_dir) / CHOICE, content)


def _timed_for(args: PreferenceConfig, model: PreTrainedModel, use: Use) -> dict[str, Any]:
    """What times of attention backends depend on."""
    config = model.config.get_text_config()
    return {
        "device": torch.cuda.get_device_name(use.device) if use.device.type == "cuda" else use.device.type,
        "dtype": str(use.dtype),
        "compiled": use.compiled,
        "heads": [config.num_attention_heads, getattr(config, "num_key_value_heads", None)],
        "layers": sorted({f"{layer.head_dim}, {layer.window}, {layer.softcap}, {layer.sinks}" for layer in layers_of(model, use)}),
        "row": [args.per_device_train_batch_size, args.max_tokens_per_batch, args.max_length],
    }


@dataclass(frozen=True)
class Acceleration:
    """What was asked for, taken before `unknown_to_trl` hides it.

    Attributes:
        compiled: whether decoder layers are compiled, with this `backend` and `mode` of `torch.compile`.
        liger: whether Liger's layers are used.
    """

    compiled: bool
    backend: str
    mode: str | None
    liger: bool

    @classmethod
    def of(cls, args: PreferenceConfig) -> Acceleration:
        """What the settings ask for; says what of it is ignored.

        Raises:
            AlignError: Liger is not installed, or there is no GPU for its kernels.
        """
        compiled, liger = bool(args.torch_compile), bool(args.use_liger_kernel)
        said = logger.warning if args.process_index == 0 else logger.debug
        if compiled and sharding(args) == "zero3":
            said("torch_compile is ignored under ZeRO-3: layers whose weights are gathered and freed cannot be compiled.")
            compiled = False
        if compiled and liger:
            said("use_liger_kernel is ignored with torch_compile, which fuses the same operations and more.")
            args.use_liger_kernel = liger = False
        if liger and args.device.type == "cpu":
            raise AlignError("use_liger_kernel=True needs a GPU: Liger's kernels are written in Triton. Leave it out on a CPU")
        if liger and not is_liger_kernel_available():
            raise AlignError("use_liger_kernel=True needs the package liger-kernel: pip install liger-kernel")
        args.liger_kernel_config = {**(args.liger_kernel_config or {}), **_LOSSES_OF_LIGER}  # Trainer applies it once more
        return cls(compiled, args.torch_compile_backend or "inductor", args.torch_compile_mode, liger)


def use_liger(args: PreferenceConfig, *models: PreTrainedModel) -> None:
    """Give models Liger's RMSNorm, rotary embedding and SwiGLU, not its losses."""
    for model in models:
        apply_liger_kernel(model, args.liger_kernel_config)


def without_fused_head(model: PreTrainedModel) -> None:
    """Take trl's fused LM head off a model: it is not called here, and a copy of the model would run the original's weights."""
    forward = vars(model).get("forward")
    if isinstance(forward, types.MethodType) and forward.__func__.__code__.co_name == "_fused_forward":
        del model.forward
