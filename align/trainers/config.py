"""`PreferenceConfig`: trl.DPOConfig with the tree engine's, the regularizers' and the monitors' settings."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import DPOConfig

from align.engine import BACKENDS
from align.engine.attention import described
from align.engine.model import MODEL_LOGITS, UNSHARED
from align.errors import nearest
from align.loss_names import canonical_types
from align.losses import F_DIVERGENCES, Loss, expand
from align.ranges import out_of_range
from align.trees import check_targets

SCHEDULES = ("constant", "linear", "cosine")


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class PreferenceConfig(DPOConfig):
    """Settings of `PreferenceTrainer`: every field of `trl.DPOConfig`, and the following.

    `loss_type` takes any name of `align.losses.LOSSES`, or several with `loss_weights`.
    `per_device_train_batch_size` counts trees (a pair is a tree).

    Raises:
        ValueError: on construction, for an unknown name or a setting that its loss cannot use.
    """

    attention_backend: str = _setting(
        "auto",
        "Tree attention: auto (flex where layers are compiled on a GPU; else on a GPU the quickest on a row of the run, where weights are "
        f"sharded and on a CPU the first that serves), unshared (no sharing), or {described()}.",
    )
    logging_nan_inf_filter: bool = _setting(False, "Leave NaN and infinite losses out of the logged mean; looking costs a wait per step.")
    max_tokens_per_batch: int | None = _setting(None, "Pack trees into rows of at most this many tokens, instead of counting trees.")
    global_batch_size: int | None = _setting(
        None,
        "Trees (with `max_tokens_per_batch`, rows) an optimizer step, over all ranks and accumulation steps: sets "
        "`gradient_accumulation_steps` for the machine at hand.",
    )
    cache_reference: bool = _setting(True, "Keep the reference's log-probs by content, so that later epochs do not compute them again.")
    reference_cache_dir: str | None = _setting(None, "Where precomputed reference log-probs are kept (default: under HF_HOME).")
    check_reference: bool = _setting(
        True,
        "Stop before the first step if the reference is not the policy as it is then (unless `ref_model` is given), and on resuming if it "
        "is not what it was.",
    )
    resume_from_checkpoint: str | bool | None = _setting(
        None, "Go on from this checkpoint; true: from the newest whole one in `output_dir`, if there is any."
    )
    columns: Mapping[str, str | None] | None = _setting(
        None, "Column names by what is read from them, {prompt: q, chosen: good}; null: no such column (see align.trees.forms)."
    )
    max_rejected_share: float = _setting(1.0, "Stop if a larger share of the records cannot be used; they are kept in rejected.jsonl.")

    beta: float | None = _setting(  # trl's is a number, 0.1 whatever the loss
        None,
        "β, the reward's scale (IPO's τ). Left out, each loss has its authors': 0.1, but SimPO 2, DiscoPOP 0.05, SPPO and Cal-DPO 0.001.",
    )
    beta_rejected: float | None = _setting(
        None, "Flex-DPO's β⁻, the reward scale of rejected responses; `beta` is β⁺. Works with any pairwise loss."
    )
    beta_rejected_end: float | None = _setting(None, "β⁻ at the end of training, for the linear and cosine schedules.")
    beta_rejected_schedule: str = _setting("constant", "Course of β⁻ over the training: constant, linear, cosine.")
    sft_weight: float = _setting(0.0, "λ of the SFT term, −λ log π(y⁺|x), added to any loss.")
    sft_normalization: str = _setting("token", "SFT term per token of each response ('token') or summed ('sum').")

    dpop_lambda: float = _setting(50.0, "DPO-Positive's λ.")
    rpo_alpha: float = _setting(1.0, "RPO's weight of the NLL term.")
    bdpo_lambda: float = _setting(0.5, "BDPO's share of the policy in the rejected mixture, 0 to 1.")
    length_alpha: float = _setting(0.01, "R-DPO's reward a token of length difference.")
    simpo_gamma: float = _setting(0.5, "SimPO's target margin γ, in units of reward; its authors tuned γ/β, mostly to 0.3 to 0.8.")
    wpo_max_weight: float | None = _setting(
        1.0, "With `use_weighting` (WPO): largest weight of a pair, 1 as its authors clamp it; None: not clamped, as in trl."
    )
    orpo_lambda: float = _setting(0.1, "ORPO's weight of the odds-ratio term.")
    selm_alpha: float = _setting(0.001, "SELM's optimism α.")
    loss_kwargs: Mapping[str, float] | None = _setting(
        None, "Hyperparameters of losses of your own, by the names of their keyword-only arguments, {gamma: 0.5}."
    )
    desirable_weight: float = _setting(1.0, "KTO's weight of chosen responses.")
    undesirable_weight: float = _setting(1.0, "KTO's weight of rejected responses.")

    monitor_3d: bool = _setting(True, "Watch the 3D-properties: chosen, rejected and unseen log-probs on a fixed set of prompts.")
    monitor_prompts: int = _setting(8, "How many training prompts the 3D monitor watches.")
    monitor_max_new_tokens: int = _setting(48, "Longest unseen response that the 3D monitor samples at the start.")

    def __post_init__(self) -> None:
        self.loss_type = canonical_types(self.loss_type)  # type: ignore[has-type]
        if (problem := out_of_range(vars(self))) is not None:
            raise ValueError(f"`{problem[0]}` is {problem[1]}.")
        self._accumulate_to_global_batch()
        if self.accelerator_config is None and self.dataloader_pin_memory and torch.cuda.is_available():  # type: ignore[has-type]
            self.accelerator_config = {"non_blocking": True}  # a batch is copied while the step before it still runs
        super().__post_init__()
        check_targets(self.columns)
        self._check_name("attention_backend", ("auto", *BACKENDS, UNSHARED, MODEL_LOGITS))
        self._check_name("beta_rejected_schedule", SCHEDULES)
        self._check_name("sft_normalization", ("token", "sum"))
        self._check_name("truncation_mode", ("keep_start", "keep_end"))
        self._check_name("f_divergence_type", F_DIVERGENCES)
        if self.beta_rejected is not None and self.beta_rejected_schedule != "constant" and self.beta_rejected_end is None:
            raise ValueError(
                f"`beta_rejected_schedule='{self.beta_rejected_schedule}'` needs `beta_rejected_end`, β⁻ at the end of training."
            )
        self._check_loss_kwargs()
        if any(loss.name == "cdpo" for loss, _ in self.losses()) and self.label_smoothing == 0.0:
            raise ValueError("`loss_type='cdpo'` needs `label_smoothing` above 0, the share of labels taken to be flipped.")

    def _check_loss_kwargs(self) -> None:
        """Every hyperparameter of a user's own loss is given or has a default, and nothing else is given."""
        given, losses = dict(self.loss_kwargs or {}), self.losses()
        own = {name for loss, _ in losses for name in loss.hyperparameters if not hasattr(self, name)}
        for name in given:
            if hasattr(self, name) and name not in own:
                raise ValueError(f"`loss_kwargs` has '{name}', which is a setting by itself: give `{name}`.")
            if name not in own:
                raise ValueError(f"`loss_kwargs` has '{name}': {nearest(name, sorted(own)) if own else 'no loss takes one.'}")
        for loss, _ in losses:
            for name in loss.required:
                if name in own and name not in given:
                    raise ValueError(f"The loss '{loss.name}' needs `{name}`: give `loss_kwargs={{'{name}': …}}`.")

    def hyperparameters(self) -> dict[str, float | None]:
        """The values of all hyperparameters that the losses take, by name."""
        names = {name for loss, _ in self.losses() for name in loss.hyperparameters}
        return {name: getattr(self, name) for name in names if hasattr(self, name)} | dict(self.loss_kwargs or {}) | {"beta": self.beta}

    def _accumulate_to_global_batch(self) -> None:
        if self.global_batch_size is None:
            return
        if self.gradient_accumulation_steps != 1:  # type: ignore[has-type]
            raise ValueError("`global_batch_size` sets `gradient_accumulation_steps`: leave one of them out.")
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        each = ranks if self.max_tokens_per_batch else self.per_device_train_batch_size * ranks
        if self.global_batch_size % each:
            below = self.global_batch_size // each * each
            nearest_sizes = f"{below} or {below + each}" if below else f"{each}"
            unit, other = "trees", f" with `per_device_train_batch_size={self.per_device_train_batch_size}`"
            if self.max_tokens_per_batch:
                unit, other = "rows", ""
            raise ValueError(
                f"`global_batch_size` is {self.global_batch_size}, but {ranks} processes{other} do {each} {unit} at a time: "
                f"make it {nearest_sizes}, or change the other."
            )
        self.gradient_accumulation_steps = self.global_batch_size // each

    def _check_name(self, key: str, options: tuple[str, ...]) -> None:
        value = getattr(self, key)
        if value not in options:
            raise ValueError(f"`{key}` is '{value}': {nearest(str(value), options)}")

    def __getstate__(self) -> dict[str, Any]:
        """What is saved with a model (`training_args.bin`) and goes to the hub: all settings but the token."""
        return {name: None if name.endswith("hub_token") else value for name, value in vars(self).items()}

    def losses(self) -> list[tuple[Loss, float]]:
        """The losses of `loss_type` with their weights, and the SFT term as one of them."""
        losses = expand(self.loss_type, self.loss_weights)
        if self.sft_weight:
            losses += expand(["nll" if self.sft_normalization == "token" else "nll_sum"], [self.sft_weight])
        return losses

    def betas(self) -> dict[str, float]:
        """β of each loss of `loss_type` that has one, by name: the user's `beta`, else the loss's own default."""
        own = {loss.name: loss.default_beta for loss, _ in self.losses() if loss.default_beta is not None}
        return {name: default if self.beta is None else self.beta for name, default in own.items()}

    def described_losses(self) -> str:
        """The losses with their weights and the β in force, for people: "sigmoid (β = 0.1) + 0.2 · nll"."""
        betas = self.betas()
        names = [f"{loss.name} (β = {betas[loss.name]:g})" if loss.name in betas else loss.name for loss, _ in self.losses()]
        weights = ["" if weight == 1 else f"{weight:g} · " for _, weight in self.losses()]
        return " + ".join(weight + name for weight, name in zip(weights, names, strict=True))

    def beta_rejected_at(self, progress: float) -> float | None:
        """β⁻ at a share `progress` (0 to 1) of the training; None where Flex-DPO is off."""
        start = self.beta_rejected
        if start is None or self.beta_rejected_schedule == "constant":
            return start
        assert self.beta_rejected_end is not None
        share = progress if self.beta_rejected_schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return start + (self.beta_rejected_end - start) * share
