"""Models of which each rank holds only a part (ZeRO-3, FSDP): what has to be minded."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import trl.trainer.dpo_trainer as trl_trainer
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, gather_object
from torch import nn

from align.errors import AlignError
from align.trainers.config import PreferenceConfig


def is_fsdp(args: PreferenceConfig) -> bool:
    """Whether training goes over FSDP, known before there is an accelerator."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


def check_fsdp(args: PreferenceConfig) -> None:
    """See that FSDP is what is going to happen.

    Raises:
        AlignError: there are no GPUs; accelerate would train plain copies of a model whose weights only the main process has loaded.
    """
    if is_fsdp(args) and PartialState().distributed_type == DistributedType.MULTI_CPU:
        raise AlignError("FSDP needs GPUs: on CPUs accelerate quietly falls back to plain copies. Take cpu, ddp or a zero configuration.")


def sharding(args: PreferenceConfig) -> str:
    """ "fsdp", "zero1", "zero2", "zero3" or "none"."""
    stage = getattr(args.deepspeed_plugin, "zero_stage", 0)
    return "fsdp" if is_fsdp(args) else f"zero{stage}" if stage else "none"


def is_sharded(args: PreferenceConfig) -> bool:
    """Whether no rank holds whole weights, so that all ranks must call the model together."""
    return sharding(args) in ("fsdp", "zero3")


def reference_identity(model: nn.Module, whole: str, described: str = "") -> str:
    """What a reference's log-probs are filed under, the same on every rank.

    Args:
        model: the reference.
        whole: a hash of its weights as this rank sees them. Good for all ranks if it is the main process's (FSDP may load weights
            there alone); under ZeRO-3 no rank sees whole weights, and what each holds of them is hashed instead.
        described: what else decides its log-probs (`starting_point.description`).
    """
    held = [parameter.ds_tensor for parameter in model.parameters() if hasattr(parameter, "ds_tensor")]
    if not held:
        return str(gather_object([hashlib.sha256(f"{whole} {described}".encode()).hexdigest()])[0])
    digest = hashlib.sha256(described.encode())
    for shard in held:
        digest.update(str(shard.dtype).encode())
        digest.update(shard.detach().float().cpu().numpy().tobytes())
    return hashlib.sha256("".join(gather_object([digest.hexdigest()])).encode()).hexdigest()


@contextlib.contextmanager
def reference_from_main_process() -> Iterator[None]:
    """Let trl shard a reference under FSDP2 with the main process's weights, as accelerate does with the policy.

    trl 1.16 shards what each rank has in memory, but under `fsdp_cpu_ram_efficient_loading` the others have not loaded anything.
    """
    theirs = trl_trainer.prepare_fsdp

    def prepare(model: Any, accelerator: Accelerator) -> Any:
        if accelerator.state.fsdp_plugin.fsdp_version != 2:
            return theirs(model, accelerator)
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        return fsdp2_prepare_model(accelerator, model).eval()

    trl_trainer.prepare_fsdp = prepare
    try:
        yield
    finally:
        trl_trainer.prepare_fsdp = theirs
