"""`use_liger_kernel` and `torch_compile`, by the names that users know, made to work with trees; and trl's own head taken off."""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel

from align.engine import BACKENDS, ProbeResult
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


def kept_choice(args: PreferenceConfig, device: torch.device) -> str | None:
    """The attention backend that was the quickest when this training began, on a GPU like this one."""
    if args.attention_backend != "auto" or device.type != "cuda":
        return None
    with contextlib.suppress(DamagedError):
        kept = read_json(Path(args.output_dir) / CHOICE, lambda content: isinstance(content, dict) and content.get("backend") in BACKENDS)
        if kept and kept.get("device") == torch.cuda.get_device_name(device):
            return str(kept["backend"])
    return None


def keep_choice(args: PreferenceConfig, device: torch.device, choice: ProbeResult) -> None:
    """Write down what was timed, for when the training goes on, and for people."""
    if not choice.seconds:
        return
    content = {"backend": choice.backend, "seconds_per_layer": choice.seconds, "device": torch.cuda.get_device_name(device)}
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    write_json(Path(args.output_dir) / CHOICE, content)


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
        """What the settings ask for; says what of it cannot be had."""
        compiled, liger = bool(args.torch_compile), bool(args.use_liger_kernel)
        if compiled and sharding(args) == "zero3":
            logger.warning("torch_compile: layers whose weights ZeRO-3 gathers and frees cannot be compiled; it goes on without.")
            compiled = False
        if compiled and liger:
            logger.warning("use_liger_kernel: torch_compile fuses the same operations, and more; Liger's kernels are left out.")
            args.use_liger_kernel = liger = False
        args.liger_kernel_config = {**(args.liger_kernel_config or {}), **_LOSSES_OF_LIGER}  # Trainer applies it once more
        return cls(compiled, args.torch_compile_backend or "inductor", args.torch_compile_mode, liger)


def use_liger(args: PreferenceConfig, device: torch.device, *models: PreTrainedModel) -> None:
    """Give models Liger's RMSNorm, rotary embedding and SwiGLU, not its losses.

    Raises:
        AlignError: it is not installed, or there is no GPU for its kernels.
    """
    if device.type == "cpu":
        raise AlignError("use_liger_kernel=True needs a GPU: Liger's kernels are written in Triton. Leave it out on a CPU")
    try:
        for model in models:
            apply_liger_kernel(model, args.liger_kernel_config)
    except ImportError as error:
        raise AlignError("use_liger_kernel=True needs the package liger-kernel: pip install liger-kernel") from error


def without_fused_head(model: PreTrainedModel) -> None:
    """Take trl's fused LM head off a model: it is not called here, and a copy of the model would run the original's weights."""
    forward = vars(model).get("forward")
    if isinstance(forward, types.MethodType) and forward.__func__.__code__.co_name == "_fused_forward":
        del model.forward
