"""The tree engine of a training: which attention backend policy and reference use, and when that is decided."""

from __future__ import annotations

import functools
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, is_peft_model
from transformers import PreTrainedModel

from align.engine import Layout, TokenTree, TreeBatch, TreeOutput, Wanted, choose_backend, install, tree_scores
from align.engine.attention import Use, plans_for
from align.engine.compiling import compile_layers, uncompile_layers
from align.engine.model import MODEL_LOGITS, UNSHARED
from align.engine.probe import cannot_share, pads_rows, preference
from align.engine.row_lengths import RowLengths
from align.trainers.acceleration import Acceleration, keep_choice, kept_choice, unknown_to_trl, use_liger, without_fused_head
from align.trainers.collator import token_tree
from align.trainers.config import PreferenceConfig
from align.trainers.reference_trainer import ReferenceTrainer
from align.trainers.sharding import is_sharded


class EngineTrainer(ReferenceTrainer):
    """Scores trees by packed forwards of policy and reference.

    The backend is chosen when the models are complete, by probing them; where their weights are spread over ranks it is confirmed
    when they are wrapped, before the first step.
    """

    def __init__(self, model: Any, ref_model: PreTrainedModel | None, args: PreferenceConfig, *positional: Any, **kwargs: Any) -> None:
        self._backend: str | None = None
        self._acceleration = Acceleration.of(args)
        with unknown_to_trl(args):
            super().__init__(model, ref_model, args, *positional, **kwargs)

    def _bare(self, model: Any) -> PreTrainedModel:
        bare = self.accelerator.unwrap_model(model)
        return bare.get_base_model() if is_peft_model(bare) else bare

    def _models(self) -> list[PreTrainedModel]:
        """The bare policy, and the bare reference where it is a model of its own."""
        return [self._bare(model) for model in (self.model, self.ref_model) if model is not None]

    def _install_engine(self) -> None:
        """Choose the attention backend by probing this very model, and teach policy and reference the tree call."""
        if self._backend is not None:
            return
        policy, models = self._bare(self.model), self._models()
        for model in models:
            without_fused_head(model)
        if self._acceleration.liger:
            use_liger(self.args, *models)
        prompt_learning = is_peft_model(self.model) and self.model.active_peft_config.is_prompt_learning
        if prompt_learning or not self.args.disable_dropout:  # virtual tokens, or dropout, belong to each row by itself
            self._set_backend(UNSHARED)
        elif is_sharded(self.args):  # probed when it is wrapped; until then, what its configuration tells must do
            order = preference(policy, self.args.attention_backend, self._use)[0]
            self._set_backend(UNSHARED if cannot_share(policy) else order[0])
        else:
            self._set_backend(self._quickest_backend(policy))

    def _quickest_backend(self, policy: PreTrainedModel) -> str:
        """The backend that this training began with, or the one that is chosen now; the main process's choice on every rank."""
        kept = kept_choice(self.args, policy, self._use)
        choice = choose_backend(policy, kept or self.args.attention_backend, use=self._use, sample=self._sample_row)
        if self.accelerator.is_main_process:
            keep_choice(self.args, policy, self._use, choice)
        return str(broadcast_object_list([choice.backend])[0])

    @functools.cached_property
    def _use(self) -> Use:
        """How the policy is going to be called."""
        halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = halves.get(self.accelerator.mixed_precision, self._bare(self.model).dtype)
        return Use(self.accelerator.device, dtype, compiled=self._acceleration.compiled)

    def _set_backend(self, backend: str) -> None:
        """Install a backend in policy and reference, and have the collator make what it reads."""
        self._backend = backend
        policy, models = self._bare(self.model), self._models()
        shared = backend not in (UNSHARED, MODEL_LOGITS)
        for model in models:
            install(model, backend)
            if shared and self._use.compiled:
                compile_layers(model, self._acceleration.backend, self._acceleration.mode)
            else:
                uncompile_layers(model)
        self._collator.plans = plans_for(policy, backend, self._use) if shared else None
        padded = pads_rows(policy, backend, self._use)
        self._collator.row_length = RowLengths(self.args.max_tokens_per_batch) if padded else None

    def _sample_row(self) -> Layout:
        """The structure of a row like those to come."""
        count = self.args.per_device_train_batch_size
        budget = self.args.max_tokens_per_batch
        trees: list[TokenTree] = []
        for example in self.train_dataset:
            trees.append(token_tree(example))
            if (sum(map(len, (run for tree in trees for run in tree.tokens))) >= budget) if budget else (len(trees) == count):
                break
        return self._collator.pack(trees).layout

    def _check_reference(self) -> None:
        self._confirm_backend()
        super()._check_reference()

    def _confirm_backend(self) -> None:
        """Probe a policy whose weights are spread over ranks, now that it is wrapped; all ranks take part."""
        if not is_sharded(self.args) or self._backend in (UNSHARED, MODEL_LOGITS, None):
            return
        backend = self._backend
        with self._quiet_model() as model:
            self._backend = choose_backend(self._bare(self.model), backend, use=self._use, through=model, worst=_largest_of_ranks).backend
        if self._backend != backend:
            self._set_backend(self._backend)

    def _scores(self, model: Any, batch: TreeBatch, want: Wanted | None = None) -> TreeOutput:
        assert self._backend is not None
        return tree_scores(model, batch, self._backend, want)


def _largest_of_ranks(difference: float) -> float:
    """NaN where any rank has it."""
    values: list[float] = gather_object([difference])
    return float("nan") if any(value != value for value in values) else max(values)
