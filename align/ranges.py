"""The numbers that settings may have: those of a training, in recipes and in `PreferenceConfig`, and those of a recipe's other sections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `lowest` to `highest`, which belong to it unless `above` or `below` says otherwise."""

    lowest: float = -math.inf
    highest: float = math.inf
    above: bool = False
    below: bool = False

    def has(self, value: float) -> bool:
        """Whether a finite number is in it; a not-a-number is in none."""
        low = value > self.lowest if self.above else value >= self.lowest
        high = value < self.highest if self.below else value <= self.highest
        return low and high and math.isfinite(value)

    def __str__(self) -> str:
        if self.highest == math.inf:
            return f"a number above {self.lowest:g}" if self.above else f"{self.lowest:g} or more"
        low = f"above {self.lowest:g}" if self.above else f"from {self.lowest:g}"
        return f"a number {low} {'to below' if self.below else 'to'} {self.highest:g}"


_POSITIVE, _COUNT, _NOT_NEGATIVE, _SHARE = Range(0, above=True), Range(1), Range(0), Range(0, 1)
TRAINING = {
    **dict.fromkeys(("beta", "num_train_epochs", "logging_steps", "save_steps", "eval_steps", "wpo_max_weight", "adam_epsilon"), _POSITIVE),
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_length", "global_batch_size",
            "max_tokens_per_batch", "monitor_max_new_tokens", "save_total_limit", "dataset_num_proc",
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "sft_weight", "beta_rejected", "beta_rejected_end",
            "dpop_lambda", "rpo_alpha", "simpo_gamma", "orpo_lambda", "desirable_weight", "undesirable_weight", "dataloader_num_workers",
            "monitor_prompts",
        ),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(("max_rejected_share", "bdpo_lambda"), _SHARE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), Range(0, 1, below=True)),
    "label_smoothing": Range(0, 0.5, below=True), "seed": Range(0, 2**32 - 1), "data_seed": Range(0, 2**32 - 1),
}  # fmt: skip
"""Setting of a training → the numbers that it may be; None is left to the setting's own meaning."""
SECTIONS = {
    **dict.fromkeys(
        (
            "data.limit", "model.lora.r", "rollouts.limit", "rollouts.samples", "rollouts.max_new_tokens", "rollouts.batch",
            "rounds.max_tokens_per_row", "rounds.filter.min_responses", "rounds.filter.max_characters",
            "rounds.filter.max_tokens", "thoughts.judge.votes", "thoughts.together", "resources.processes", "resources.tensor_parallel",
        ),
        _COUNT,
    ),
    **dict.fromkeys(("model.lora.alpha", "code.sandbox.seconds", "code.sandbox.memory_gb"), _POSITIVE),
    **dict.fromkeys(
        (
            "rollouts.temperature", "rollouts.top_k", "rounds.filter.min_characters", "thoughts.judge.temperature",
            "thoughts.min_characters", "code.sandbox.tolerance",
        ),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(("data.max_rejected_share", "rollouts.min_p", "rounds.quantile"), _SHARE),
    "model.lora.dropout": Range(0, 1, below=True), "rollouts.top_p": Range(0, 1, above=True),
}  # fmt: skip
"""Key of another section → the numbers that it may be."""


def out_of_range(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first setting whose number it cannot have, with what is wrong; None where there is none.

    >>> out_of_range({"beta": -0.1, "max_length": None})
    ('beta', '-0.1: expected a number above 0')
    >>> out_of_range({"learning_rate": 5e-7, "max_steps": 0})
    ('max_steps', '0: expected 1 or more, or -1 for as many as num_train_epochs makes')
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if name == "max_steps" and value < 1 and value != -1:
            return name, f"{value}: expected 1 or more, or -1 for as many as num_train_epochs makes"
        if name in TRAINING and not TRAINING[name].has(value):
            return name, f"{value}: expected {TRAINING[name]}"
    return None


def out_of_range_in(recipe: Any) -> tuple[str, str] | None:
    """The first key of a recipe's other sections whose number it cannot have, with what is wrong; None where there is none."""
    for key, numbers in SECTIONS.items():
        value = recipe
        for part in key.split("."):
            value = getattr(value, part, None)
        if isinstance(value, (int, float)) and not numbers.has(value):
            return key, f"{value}: expected {numbers}"
    return None
