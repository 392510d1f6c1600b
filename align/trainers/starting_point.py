"""The reference taken from the policy in hand: a frozen copy of it, or what its adapter lets one do without a copy."""

from __future__ import annotations

import copy
import hashlib
import json
import types
from typing import Any

from accelerate.utils import is_peft_model
from peft import LoraConfig, PeftConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from align.errors import AlignError

REFERENCE = "ref"  # trl's name for the adapter that is the reference
_IDENTITY_AT_START = (True, "gaussian", "orthogonal", "eva")  # of `init_lora_weights`: B·A = 0, and the base stays as it is


def frozen_copy(policy: PreTrainedModel) -> PreTrainedModel:
    """A copy of the policy as it is, in evaluation mode, without gradients. An adapter's frozen base is shared, not copied.

    Raises:
        AlignError: the weights are spread over ranks (ZeRO-3) in a way that cannot be copied.
    """
    if any(hasattr(parameter, "ds_tensor") for parameter in policy.parameters()):
        return _copy_of_shards(policy)
    shared = {id(p): p for p in policy.parameters() if not p.requires_grad} if is_peft_model(policy) else {}
    twin = copy.deepcopy(policy, shared)
    for module in (twin, twin.get_base_model()) if is_peft_model(twin) else (twin,):
        if isinstance(vars(module).get("forward"), types.MethodType):
            del module.forward  # patched by an earlier trainer, and bound to the weights of the original
    for parameter in twin.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
    return twin.eval()


def _copy_of_shards(policy: PreTrainedModel) -> PreTrainedModel:
    """Under ZeRO-3: a new model of the same configuration is sharded alike, so that each rank copies the shards it holds."""
    twin = type(policy)._from_config(copy.deepcopy(policy.config), dtype=policy.dtype).eval()
    ours, theirs = dict(policy.named_parameters()), dict(twin.named_parameters())
    if {name: getattr(p, "ds_shape", None) for name, p in ours.items()} != {n: getattr(p, "ds_shape", None) for n, p in theirs.items()}:
        raise AlignError(
            "the reference is to be the policy as it is, whose weights are not those its configuration describes and lie spread over the "
            "ranks (ZeRO-3): save the model and pass it as ref_model (model.reference in a recipe), or set precompute_ref_log_probs=True"
        )
    for name, parameter in theirs.items():
        parameter.ds_tensor.data.copy_(ours[name].ds_tensor.data)
        parameter.requires_grad_(False)
    buffers = dict(policy.named_buffers())
    for name, buffer in twin.named_buffers():
        buffer.data.copy_(buffers[name].data)
    return twin


def trained_outside_adapters(policy: PeftModel) -> list[str]:
    """Names of the trained weights that belong to no active adapter: turning the adapter off does not undo their training."""
    adapters = set(policy.active_adapters)
    return [name for name, parameter in policy.named_parameters() if parameter.requires_grad and not adapters & set(name.split("."))]


def starts_as_its_base(config: PeftConfig) -> bool:
    """Whether a new adapter leaves the model what it was, so that the adapter off is the policy at the start.

    PiSSA, OLoRA, CorDA and LoftQ take the place of a part of the base's weights, and some adapters begin at random. Prompts that are
    learned (virtual tokens) are not asked for here: their reference is the model without them, by trl's convention.
    """
    if isinstance(config, LoraConfig):
        return config.init_lora_weights in _IDENTITY_AT_START
    return all(getattr(config, name, True) is True for name in ("init_weights", "init_ia3_weights"))


def reference_name(policy: PeftModel) -> str:
    """The name of the adapter that is, or would be, the policy's reference."""
    return REFERENCE if REFERENCE not in policy.active_adapters else "reference"


def add_reference_adapter(policy: PeftModel) -> bool:
    """Keep the active adapter as it is as a second, frozen one, under `reference_name`; False where PEFT cannot, and nothing is changed.

    Unlike trl 1.16 this takes an active adapter of any name, and does not let the second one change the base's weights once more, as
    PiSSA, OLoRA and CorDA do when they begin.
    """
    if len(policy.active_adapters) != 1:
        return False
    active, name = policy.active_adapters[0], reference_name(policy)
    trained = {key: parameter.requires_grad for key, parameter in policy.named_parameters()}
    try:
        policy.add_adapter(name, _plain(policy.peft_config[active]))
    except (ValueError, TypeError, NotImplementedError):
        return False
    tensors = {**dict(policy.named_parameters()), **dict(policy.named_buffers())}
    for key, tensor in tensors.items():
        parts = key.split(".")
        if name in parts:
            original = tensors.get(".".join(active if part == name else part for part in parts))
            if original is None:
                policy.delete_adapter(name)
                return False
            tensor.data = original.data.clone()
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(False)
        elif isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(trained.get(key, tensor.requires_grad))
    for module in policy.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and active in scaling:
            scaling[name] = scaling[active]
    return True


def _plain(config: PeftConfig) -> PeftConfig:
    """The configuration of an adapter whose weights are about to be overwritten: beginning it must not touch the base."""
    plain = copy.deepcopy(config)
    plain.inference_mode = True
    if isinstance(plain, LoraConfig):
        plain.init_lora_weights = True
        plain.layer_replication = None  # done already
    return plain


def description(model: Any, adapter: str | None) -> str:
    """What else than its stored tensors decides a model's log-probs, as text that is the same for the same model.

    Args:
        model: a model, or one with adapters.
        adapter: the adapter that is the reference; None: none, or no adapters.
    """
    names = ("_name_or_path", "transformers_version", "architectures")
    bare: Any = model  # its configuration and adapters are no part of nn.Module's type
    configuration = bare.config.to_dict() if hasattr(bare, "config") else {}
    content: dict[str, Any] = {"class": type(model).__name__, "adapter": adapter}
    content["config"] = {key: value for key, value in configuration.items() if key not in names}
    if is_peft_model(model) and adapter is not None:
        content["peft"] = {key: value for key, value in bare.peft_config[adapter].to_dict().items() if key != "base_model_name_or_path"}
        scalings = ((name, getattr(module, "scaling", None)) for name, module in model.named_modules())
        content["scaling"] = {name: scaling.get(adapter) for name, scaling in scalings if isinstance(scaling, dict)}
    stored = set(model.state_dict(keep_vars=True))
    unstored = {name: buffer for name, buffer in model.named_buffers() if name not in stored and not buffer.is_meta}
    content["buffers"] = {name: hashlib.sha256(buffer.double().cpu().numpy().tobytes()).hexdigest() for name, buffer in unstored.items()}
    return json.dumps(content, sort_keys=True, default=lambda value: sorted(map(str, value)) if isinstance(value, set) else str(value))
