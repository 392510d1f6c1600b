"""The model card that goes with a trained model. No times and no paths in it: equal trainings, equal cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from align.diagnostics import ThreeD, findings
from align.recipes import Recipe
from align.trainers.config import PreferenceConfig

SHOWN = (
    "loss_type", "beta", "beta_rejected", "sft_weight", "learning_rate", "lr_scheduler_type", "max_steps", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "global_batch_size", "max_length", "seed",
)  # fmt: skip
NUMBERS = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")


def model_card(recipe: Recipe, args: Any, log: list[dict[str, Any]], examples: int, method: str = "DPO") -> str:
    """A Markdown card with the metadata that the hub reads.

    Args:
        recipe: as it was trained.
        args: the trainer's settings, with all defaults.
        log: the trainer's log history.
        examples: trees in the training set.
        method: the name of the method.
    """
    base = recipe.model.name_or_path
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["align", "preference-optimization", method.lower()]}
    if not Path(base).exists() and ":" not in base:
        head["base_model"] = base
    settings = "".join(f"| {name} | {_plain(getattr(args, name, None))} |\n" for name in SHOWN if getattr(args, name, None) is not None)
    if isinstance(args, PreferenceConfig) and args.beta is None and args.betas():
        settings += f"| beta | {', '.join(f'{name} {beta:g}' for name, beta in args.betas().items())} |\n"
    last: dict[str, Any] = {}
    for entry in log:
        last |= {key: value for key, value in entry.items() if key in NUMBERS or key.startswith("3d/")}
    numbers = "".join(f"| {name} | {last[name]:.4g} |\n" for name in NUMBERS if name in last)
    adapter = f" A LoRA adapter of rank {recipe.model.lora.r} was trained." if recipe.model.lora else ""
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# {Path(base).name}, aligned\n\n"
        f"Trained from `{Path(base).name}` on {examples} preference trees with align ({method}).{adapter}\n\n"
        f"| setting | value |\n| --- | --- |\n{settings}\n| at the end of training | |\n| --- | --- |\n{numbers}\n{_watched(last)}"
    )


def _watched(last: dict[str, Any]) -> str:
    names = [name for name in ThreeD.__dataclass_fields__ if f"3d/{name}" in last]
    if len(names) < len(ThreeD.__dataclass_fields__):
        return ""
    state = ThreeD(**{name: last[f"3d/{name}"] for name in names})
    drifts = f"chosen {state.chosen_drift:+.2f}, rejected {state.rejected_drift:+.2f}, unseen {state.unseen_drift:+.2f}"
    found = "".join(f"- {finding}\n" for finding in findings(state))
    return f"Change of log-likelihood since the start, nats a response: {drifts}.\n\n{found}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(getattr(value, "value", value))
