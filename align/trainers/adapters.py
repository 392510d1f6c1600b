"""Adapters in checkpoints: every one of them is loaded, from where PEFT has put it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

from align.errors import AlignError

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_folder(checkpoint: Path, name: str) -> Path:
    """Where PEFT keeps an adapter: `default` in the checkpoint itself, every other in a folder of its name."""
    return checkpoint if name == "default" else checkpoint / name


def load_adapters(model: PeftModel, checkpoint: Path, optional: str | None = None) -> None:
    """Load the weights of all adapters that a model has from a checkpoint; which are active and which are trained stays as it is.

    transformers 5.17 loads the folders alone where there are any, so that `default`, which lies beside them, would begin anew.

    Args:
        model: with its adapters in place.
        checkpoint: written by `PeftModel.save_pretrained`.
        optional: an adapter that may be missing there, and then stays as it is.

    Raises:
        AlignError: an adapter is missing, or is of another form, and nothing is loaded then; or PEFT has saved less than it consists of.
    """
    loaded = {}
    for name in model.peft_config:
        folder = adapter_folder(checkpoint, name)
        if any((folder / file).exists() for file in _WEIGHTS):
            loaded[name] = load_peft_weights(str(folder), device="cpu")
            _check_form(model, name, loaded[name], folder)
        elif name != optional:
            saved = [other for other in _saved(checkpoint) if other != optional]
            there = f"it has {', '.join(map(repr, saved))}" if saved else "it has none"
            raise AlignError(f"checkpoint '{checkpoint}' has no weights of the adapter '{name}', which the model has: {there}")
    for name, weights in loaded.items():
        set_peft_model_state_dict(model, weights, adapter_name=name)
        for key, tensor in get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).items():
            if not torch.equal(tensor.cpu(), weights[key].to(tensor.dtype)):
                raise AlignError(
                    f"the adapter '{name}' in checkpoint '{checkpoint}' does not give {key} when it is loaded: of virtual tokens that an "
                    "encoder makes (P-tuning, prefix_projection) PEFT saves the tokens alone, so that their training cannot go on"
                )


def _saved(checkpoint: Path) -> list[str]:
    """Names of the adapters that a checkpoint holds."""
    folders = {path.parent for file in _WEIGHTS for path in (*checkpoint.glob(file), *checkpoint.glob(f"*/{file}"))}
    return sorted("default" if folder == checkpoint else folder.name for folder in folders)


def _check_form(model: PeftModel, name: str, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """See that saved weights are of the adapter's form: the same tensors of the same shapes."""
    wanted = {key: tuple(t.shape) for key, t in get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).items()}
    for key, shape in wanted.items():
        if key not in weights:
            raise AlignError(
                f"the adapter in '{folder}' has no {key}, which the adapter '{name}' at hand has: its configuration is another"
            )
        if tuple(weights[key].shape) != shape:
            raise AlignError(
                f"the adapter in '{folder}' is of another form than the model's adapter '{name}': {key} has the shape "
                f"{tuple(weights[key].shape)}, expected {shape}; take the rank and target modules it was trained with"
            )
    lora = [key for key in weights if key not in wanted and (".lora_" in key or "modules_to_save" in key)]
    if lora:
        raise AlignError(f"the adapter in '{folder}' has {lora[0]}, which the model's adapter '{name}' has not: take its target modules")
