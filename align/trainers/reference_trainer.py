"""The reference of a training: what it is, where its log-probs come from, and that it is the right one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from accelerate.utils.memory import clear_device_cache
from datasets import IterableDataset
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from trl.models import prepare_deepspeed
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from align.engine import TokenTree, TreeBatch, TreeOutput, Wanted, node_sums
from align.engine.row_lengths import rows_within
from align.errors import AlignError
from align.trainers import guard
from align.trainers.adapters import load_adapters
from align.trainers.batches import tree_sizes
from align.trainers.collator import TreeCollator, token_tree
from align.trainers.config import PreferenceConfig
from align.trainers.objective import Objective
from align.trainers.ranks import RankedTrainer
from align.trainers.reference import ReferenceStore, default_cache_dir
from align.trainers.sharding import is_fsdp, is_sharded, reference_from_main_process, reference_identity, sharding
from align.trainers.starting_point import (
    add_reference_adapter,
    description,
    frozen_copy,
    reference_name,
    starts_as_its_base,
    trained_outside_adapters,
)

logger = logging.getLogger(__name__)
_POLICY_AT_START = object()  # given to trl as the reference, so that it neither reads one from disk nor adds an adapter itself
_CHECKED_RECORDS = 8
_SYNCED_REFERENCE = "reference"  # folder of a checkpoint
_REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")


class ReferenceTrainer(RankedTrainer):
    """Takes the reference from the policy in hand, scores with it, and checks it before the first step and on resuming.

    Without `ref_model` the reference is the policy as it is when the trainer is made: a copy of its weights; with an adapter, the
    adapter off where that is the same model, else a frozen copy of the adapter. A loss that needs no reference has none.
    """

    _precompute_engine: Any  # trl's: the DeepSpeed engine of reference forwards before training
    args: PreferenceConfig
    objective: Objective
    _collator: TreeCollator

    def __init__(self, model: Any, ref_model: PreTrainedModel | None, args: PreferenceConfig, *positional: Any, **kwargs: Any) -> None:
        self._reference_store = ReferenceStore()
        self._reference_released = False
        self._reference_adapter: str | None = None  # None: adapters off
        self._brought_reference = False  # an adapter that the given model has under the reference's name
        self._reference_given = ref_model is not None
        self._reference_sample: guard.Sample | None = None
        self._new_adapter = kwargs.get("peft_config") is not None
        with reference_from_main_process():
            super().__init__(model, _POLICY_AT_START if ref_model is None else ref_model, args, *positional, **kwargs)
        if self.is_fsdp_enabled and self.precompute_ref_logps and not self._reference_given:
            self.ref_model = None  # it has scored all data; trl frees it here, too
        self.add_callback(_BeforeTheFirstStep(self._check_reference))

    # What the reference is

    @property
    def ref_model(self) -> Any:
        """The reference, where it is a model of its own; None where it is the policy, with another adapter or with none."""
        return self._ref_model

    @ref_model.setter
    def ref_model(self, model: Any) -> None:
        """trl sets the reference when the policy is complete, loaded and with its adapter: now is the start."""
        self._ref_model = self._policy_at_start() if model is _POLICY_AT_START else model

    def _policy_at_start(self) -> PreTrainedModel | None:
        if is_peft_model(self.model):
            return self._adapted_policy_at_start()
        if not self.objective.needs_reference and not self.args.sync_ref_model:
            return None
        if self.args.precompute_ref_log_probs and not self.is_fsdp_enabled:
            return None  # the policy itself scores all data before it is trained
        return frozen_copy(self.model)

    def _adapted_policy_at_start(self) -> PreTrainedModel | None:
        """None where adapters on the policy give the reference (`_reference_adapter`); else a copy that shares the frozen base."""
        policy, name = self.model, reference_name(self.model)
        if name in policy.peft_config:  # the user's own; the guard sees to it that it is the policy, or wanted
            self._reference_adapter, self._brought_reference = name, True
            return None
        outside = trained_outside_adapters(policy)
        config = policy.active_peft_config
        if not outside and self._new_adapter and (config.is_prompt_learning or starts_as_its_base(config)):
            return None
        if not self.objective.needs_reference:
            return None
        if not outside and add_reference_adapter(policy):
            self._reference_adapter = name
            return None
        if sharding(self.args) == "none":
            return frozen_copy(policy)
        raise AlignError(
            f"the reference cannot be had from this model under {sharding(self.args)}, as "
            + (f"weights besides the adapter are trained ({outside[0]})" if outside else "PEFT cannot keep a copy of its active adapters")
            + ": name them in the adapter's modules_to_save, or pass the model as it is at the start once more as ref_model"
        )

    def _reference_in_words(self) -> str:
        if self._reference_given:
            return "the ref_model that was passed"
        if self.ref_model is not None:
            return "a copy of the model as it was when the trainer was made"
        if not is_peft_model(self.model):
            return "the model as it was when the trainer was made (precomputed log-probs)"
        if self._brought_reference:
            name = self._reference_adapter
            return f"the adapter '{name}' that the model brought along (model.delete_adapter('{name}') leaves the reference to the trainer)"
        return "the adapter as it was when the trainer was made" if self._reference_adapter else "the model with its adapter off"

    # Its log-probs

    def _scores(self, model: Any, batch: TreeBatch, want: Wanted | None = None) -> TreeOutput:
        raise NotImplementedError

    def _install_engine(self) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def _reference_model(self) -> Iterator[Any]:
        """The model that gives the reference's log-probs, ready to be called."""
        trained_away = self.ref_model is None and not is_peft_model(self.model) and self.state.global_step > 0
        if self._reference_released or (self.precompute_ref_logps and trained_away):
            raise RuntimeError(
                "A batch has no precomputed reference log-probs, and the reference is gone: the data changed after the start."
            )
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            self.accelerator.autocast(),
        ):
            if self.ref_model is not None:
                yield self.ref_model
            elif is_peft_model(self.model):
                with use_adapter(self.accelerator.unwrap_model(self.model), adapter_name=self._reference_adapter):
                    yield self._precompute_engine or self.model
            else:
                yield self._precompute_engine or self.model

    def release_reference(self) -> None:
        """Give back the memory of a reference model whose log-probs are all computed. Other data cannot be scored afterwards."""
        if self.ref_model is None or not self.precompute_ref_logps:
            return
        self.accelerator._models = [model for model in self.accelerator._models if model is not self.ref_model]
        if self.is_deepspeed_enabled:
            self.ref_model.destroy()
        self.ref_model = None
        self._reference_released = True
        clear_device_cache(garbage_collection=True)

    def _reference_logps(self, batch: TreeBatch) -> Tensor:
        """`[S]`, from the store where the trees are known."""
        if batch.idle and self.precompute_ref_logps:
            return torch.zeros_like(batch.labels, dtype=torch.float32)
        known = self._reference_store.lookup(batch)
        if known is not None:
            return known
        with self._reference_model() as reference:
            logps = self._scores(reference, batch).logps
        assert logps is not None
        if self._keeps_reference:
            self._reference_store.add(batch, logps)
        return logps

    @property
    def _keeps_reference(self) -> bool:
        if self.precompute_ref_logps:
            return True
        several_epochs = self.args.num_train_epochs > 1 and self.args.max_steps <= 0
        return self.args.cache_reference and not self.args.sync_ref_model and several_epochs and not is_sharded(self.args)

    def _must_precompute(self, args: PreferenceConfig, model: Any, dataset: Any, peft_config: Any) -> bool:
        """Where weights are sharded, a rank that knows a batch's reference must not leave the others to gather the weights alone."""
        adapted = peft_config is not None or (not isinstance(model, str) and is_peft_model(model))
        adapter_alone = is_fsdp(args) and adapted  # not whole before the training begins
        if args.precompute_ref_log_probs and adapter_alone:
            raise ValueError("`precompute_ref_log_probs` does not work with an adapter under FSDP: leave it out, or use ZeRO.")
        known = args.cache_reference and not args.sync_ref_model and not isinstance(dataset, IterableDataset)
        return is_sharded(args) and known and self.objective.needs_reference and not adapter_alone

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if isinstance(dataset, IterableDataset):
            raise ValueError(
                "`precompute_ref_log_probs=True` is not supported with IterableDataset. Please use a map-style "
                "Dataset or set `precompute_ref_log_probs=False`."
            )
        self._install_engine()
        if self.ref_model is None and self.is_deepspeed_enabled and self._precompute_engine is None:
            self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)  # Trainer wraps the model only later
        reference = self.ref_model or self.model
        described = description(self.accelerator.unwrap_model(reference), self._reference_adapter)
        folder = Path(self.args.reference_cache_dir or default_cache_dir())
        path = folder / f"{reference_identity(reference, self._precompute_model_hash, described)}-{self.accelerator.mixed_precision}.npz"
        self._reference_store.load(path)
        missing = [number for number, example in enumerate(dataset) if self._key(token_tree(example)) not in self._reference_store]
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = list(self._reference_rows(dataset, missing, batch_size))
        keys: list[bytes] = []
        for number in range(-(-len(rows) // ranks)):  # every rank takes part in every round, if need be with a tree done before
            part = rows[number * ranks + rank] if number * ranks + rank < len(rows) else missing[:1]
            batch = self._collator.pack([token_tree(dataset[number]) for number in part]).to(self.accelerator.device)
            with self._reference_model() as model:
                logps = self._scores(model, batch).logps
            assert logps is not None
            self._reference_store.add(batch, logps)
            keys += batch.keys
        for entries in gather_object([self._reference_store.items(keys)]):
            self._reference_store.update(entries)
        if missing and self.accelerator.is_main_process:
            self._reference_store.save(path)
        self.accelerator.wait_for_everyone()
        return dataset

    def _reference_rows(self, dataset: Any, missing: list[int], count: int) -> Iterator[list[int]]:
        """Which trees are scored together: as many as fit in `max_tokens_per_batch`, without it `count`."""
        if self.args.max_tokens_per_batch is None:
            return (missing[start : start + count] for start in range(0, len(missing), count))
        return rows_within(self.args.max_tokens_per_batch, missing, tree_sizes(dataset, self.args.max_length).__getitem__)

    def _key(self, tree: TokenTree) -> bytes:
        """What the store knows a tree by when it has been packed."""
        return self._collator.truncated(tree).content_key(self._collator.score_free)

    @contextlib.contextmanager
    def _quiet_model(self) -> Iterator[Any]:
        """The policy in evaluation mode, without gradients and checkpointing, as it was afterwards."""
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                yield model
        finally:
            self.model.train(training)

    # That it is the right one

    def _check_reference(self) -> None:
        """Compare the reference with the policy at the start, and with what it was when a training goes on; all ranks take part.

        Raises:
            AlignError: it is another model.
        """
        if self.resumed_from is not None and self.args.sync_ref_model and sharding(self.args) != "none":
            raise AlignError(
                f"with sync_ref_model under {sharding(self.args)} no checkpoint holds the reference: such a training cannot go on"
            )
        if not (self.args.check_reference and self.objective.needs_reference) or self._reference_sample is not None:
            return
        self._check_trained_weights()
        records = list(islice(iter(self.train_dataset), min(self.args.per_device_train_batch_size, _CHECKED_RECORDS)))
        trees: list[TokenTree] = [token_tree(record) for record in records]
        batch = self._collator.pack(trees).to(self.accelerator.device)
        logps = self._reference_logps(batch)
        self._reference_sample = guard.Sample.of(batch.keys, batch.token_slices, logps)
        _check_columns(records, batch, node_sums(logps, batch))
        if self.args.sync_ref_model and self.resumed_from is not None:
            return
        if self.resumed_from is not None:
            self._compare(guard.Sample.read(self.resumed_from), len(records))
        elif not self._reference_given:
            with self._quiet_model() as model, self.accelerator.autocast():
                policy_logps = self._scores(model, batch).logps
            assert policy_logps is not None
            self._compare(guard.Sample.of(batch.keys, batch.token_slices, policy_logps), len(records))

    def _compare(self, expected: guard.Sample | None, records: int) -> None:
        """See that the reference's sample is the expected one, of the policy or of the training before its interruption."""
        assert self._reference_sample is not None
        distance = self._reference_sample.distance(expected) if expected is not None else None
        distances = [value for value in gather_object([distance]) if value is not None]
        precision = {"no": self.model.dtype, "bf16": torch.bfloat16}.get(self.accelerator.mixed_precision, torch.float16)
        allowed = guard.limit([self.model.dtype, precision])
        if not distances or (far := max(distances, key=lambda value: (value != value, value))) <= allowed:
            return
        words = self._reference_in_words()
        if self.resumed_from is not None:
            raise AlignError(guard.differs_from_before(far, allowed, self.resumed_from, words))
        if is_peft_model(self.model) and self._reference_adapter is None and self.model.active_peft_config.is_prompt_learning:
            logger.warning(
                "The virtual tokens put the policy %.3g nats per token away from its reference, the model without them, before step 1.",
                far,
            )
            return
        raise AlignError(guard.differs_at_the_start(far, allowed, records, words))

    def _check_trained_weights(self) -> None:
        """See that the training leaves a reference alone that shares the policy's base."""
        if not is_peft_model(self.model) or self.ref_model is not None or self.precompute_ref_logps:
            return
        if outside := trained_outside_adapters(self.accelerator.unwrap_model(self.model)):
            raise AlignError(
                f"{outside[0]} is trained, which does not belong to the adapter: the reference ({self._reference_in_words()}) would move "
                "with it. Set requires_grad before the trainer is made, or name it in the adapter's modules_to_save"
            )

    # Checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As RankedTrainer's.

        Raises:
            AlignError: no weight is to be trained, or the reference is another model than it should be; and as RankedTrainer's.
        """
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise AlignError(
                "no weight of the model is to be trained: all have requires_grad=False, as PEFT leaves a model with its adapter merged "
                "in; call model.requires_grad_(True), or pass a peft_config"
            )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save and self._reference_sample is not None:
            self._reference_sample.write(self._checkpoint(trial))
        if self.args.sync_ref_model and self.args.should_save and sharding(self.args) == "none":
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(self._checkpoint(trial) / _SYNCED_REFERENCE)
        super()._save_checkpoint(model, trial)

    def _checkpoint(self, trial: Any) -> Path:
        return Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if is_peft_model(self.model) and not self.is_fsdp_enabled:
            load_adapters(self.model, Path(resume_from_checkpoint), optional=self._reference_adapter)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.sync_ref_model and sharding(self.args) == "none":
            self._load_synced_reference(Path(resume_from_checkpoint) / _SYNCED_REFERENCE)

    def _load_synced_reference(self, folder: Path) -> None:
        """A reference that follows the policy is a part of the training's state."""
        if not folder.is_dir():
            raise AlignError(
                f"'{folder}' is not there: with sync_ref_model a training goes on only from a checkpoint that holds its reference"
            )
        reference = self.accelerator.unwrap_model(self.ref_model)
        reference.load_state_dict(type(reference).from_pretrained(folder, dtype=reference.dtype).state_dict())

    def _load_best_model(self) -> None:
        if is_peft_model(self.model) and not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            load_adapters(self.model, Path(str(self.state.best_model_checkpoint)), optional=self._reference_adapter)
        else:
            super()._load_best_model()


class _BeforeTheFirstStep(TrainerCallback):
    """Calls a check when a training begins, its weights loaded and spread out."""

    def __init__(self, check: Any) -> None:
        self._check = check

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check."""
        self._check()


def _check_columns(records: list[Mapping[str, Any]], batch: TreeBatch, sums: Tensor) -> None:
    """See that log-probs that pairs bring along are the reference's; `sums` are its `[N]` node by node."""
    for column in _REFERENCE_COLUMNS:
        nodes = batch.chosen if "chosen" in column else batch.rejected
        for number, record in enumerate(records):
            value = record.get(column)
            if not isinstance(value, (int, float)) or len(nodes) != len(records):
                continue
            computed = sums[nodes[number]].item()
            if abs(value - computed) > 0.5 + 0.01 * abs(computed):
                raise AlignError(guard.column_differs(column, number, float(value), computed))
