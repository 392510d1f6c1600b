"""`PreferenceTrainer`: a drop-in for trl.DPOTrainer that trains on preference trees, one packed forward a batch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from accelerate.utils.memory import clear_device_cache
from datasets import IterableDataset
from torch import Tensor
from transformers import PreTrainedModel
from trl.models import prepare_deepspeed
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from align.engine import TokenTree, TreeBatch, TreeOutput, Wanted, choose_backend, install, node_sums, pack, tree_scores, unshared
from align.engine.generate import sample_responses
from align.engine.model import UNSHARED
from align.engine.probe import cannot_share
from align.sampling import Sampling
from align.trainers import metrics as metric_sums
from align.trainers.collator import (
    PAIR_COLUMNS,
    TREE_COLUMNS,
    TreeCollator,
    token_tree,
    trees_from_padded_pairs,
)
from align.trainers.config import PreferenceConfig
from align.trainers.data import Preparation, StreamSummary, as_dataset
from align.trainers.monitor import ThreeDMonitor
from align.trainers.objective import Objective, counts, edge_tensors, edge_wpo_weights, loss_sums, normalize
from align.trainers.ranks import RankedTrainer
from align.trainers.reference import ReferenceStore, default_cache_dir
from align.trainers.sharding import check_fsdp, is_fsdp, is_sharded, reference_from_main_process, reference_identity

logger = logging.getLogger(__name__)


class PreferenceTrainer(RankedTrainer):
    """Trains on preference pairs and trees; constructor and data formats of `trl.DPOTrainer`.

    Beyond those, `train_dataset` and `eval_dataset` may be data sets of tree records (`align.trees`) or lists of
    `PreferenceTree`. The loss is the mean over the edges of the whole optimizer step, over accumulation steps and
    ranks, so how trees are packed changes nothing.

    Args and raises: as `trl.DPOTrainer`, with `args` a `PreferenceConfig`.
    """

    loss_is_scaled_for_ga = True
    _tag_names = ["trl", "dpo", "align"]
    _precompute_engine: Any  # trl's: the DeepSpeed engine of reference forwards before training
    ref_model: Any  # trl's: the reference, where it is a model of its own

    def __init__(
        self,
        model: Any,
        ref_model: PreTrainedModel | None = None,
        args: PreferenceConfig | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
            args = PreferenceConfig(f"{name.split('/')[-1]}-DPO")
        self._backend: str | None = None
        self._reference_store = ReferenceStore()
        self._reference_released = False
        self._batch_metrics = {"train": metric_sums.MetricSums(), "eval": metric_sums.MetricSums()}
        self._monitor: ThreeDMonitor | None = None
        self._preparations: list[Preparation] = []
        check_fsdp(args)
        self.objective = _objective(args)
        args.precompute_ref_log_probs |= self._must_precompute(args, model, train_dataset, kwargs.get("peft_config"))
        self._collator = TreeCollator(args.max_length, args.truncation_mode, self.objective.scores_free_nodes, self.objective.reads_margins)
        with _settings_trl_does_not_know(args), reference_from_main_process():
            super().__init__(
                model, ref_model, args, data_collator or self._collator, as_dataset(train_dataset), as_dataset(eval_dataset), **kwargs
            )
        self.f_divergence_type = args.f_divergence_type
        self._install_engine()
        self.add_callback(StreamSummary(self._preparations))
        if args.monitor_3d and args.monitor_prompts > 0:
            self._monitor = ThreeDMonitor(self._watched_trees, self._sample, self._score_watched)
            self.add_callback(self._monitor)

    def _must_precompute(self, args: PreferenceConfig, model: Any, dataset: Any, peft_config: Any) -> bool:
        """Where weights are sharded, a rank that knows a batch's reference must not leave the others to gather the weights alone."""
        adapter_alone = is_fsdp(args) and (peft_config is not None or is_peft_model(model))  # not whole before the training begins
        if args.precompute_ref_log_probs and adapter_alone:
            raise ValueError("`precompute_ref_log_probs` does not work with an adapter under FSDP: leave it out, or use ZeRO.")
        known = args.cache_reference and not args.sync_ref_model and not isinstance(dataset, IterableDataset)
        return is_sharded(args) and known and self.objective.needs_reference and not adapter_alone

    # Data

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        preparation = Preparation(self._tokenizer, args, dataset_name, self.objective.reads_margins)
        prepared = preparation(dataset)
        self._preparations.append(preparation)
        return prepared

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*PAIR_COLUMNS, *TREE_COLUMNS]  # a pair's weight and margin are columns of trees, too

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As trl's; lists of `PreferenceTree` are data sets, too."""
        return super().evaluate(as_dataset(eval_dataset), *args, **kwargs)

    # Engine

    def _bare(self, model: Any) -> PreTrainedModel:
        bare = self.accelerator.unwrap_model(model)
        return bare.get_base_model() if is_peft_model(bare) else bare

    def _install_engine(self) -> None:
        """Choose the attention backend by probing this very model, and teach policy and reference the tree call."""
        if self._backend is not None:
            return
        policy = self._bare(self.model)
        prompt_learning = is_peft_model(self.model) and self.model.active_peft_config.is_prompt_learning
        if prompt_learning or not self.args.disable_dropout:  # virtual tokens, or dropout, belong to each row by itself
            self._backend = UNSHARED
            install(policy, UNSHARED)
        elif is_sharded(self.args):  # a sharded model cannot be probed before it is wrapped: what its configuration tells must do
            wanted = "cascade" if self.args.attention_backend == "auto" else self.args.attention_backend
            self._backend = UNSHARED if cannot_share(policy) else wanted
            install(policy, self._backend)
        else:
            self._backend = choose_backend(policy, self.args.attention_backend).backend
        if self.ref_model is not None:
            install(self._bare(self.ref_model), self._backend)

    def _scores(self, model: Any, batch: TreeBatch, want: Wanted | None = None) -> TreeOutput:
        assert self._backend is not None
        return tree_scores(model, batch, self._backend, want)

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
                policy = self.accelerator.unwrap_model(self.model)
                with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
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

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> tuple[Tensor, Tensor]:
        """The reference's log-probs of the chosen and rejected end of every edge: two of `[E]`."""
        batch = self._tree_batch(inputs)
        edges = edge_tensors(self._reference_logps(batch), None, batch, self.objective)
        return edges["chosen_logps"], edges["rejected_logps"]

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

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if isinstance(dataset, IterableDataset):
            raise ValueError(
                "`precompute_ref_log_probs=True` is not supported with IterableDataset. Please use a map-style "
                "Dataset or set `precompute_ref_log_probs=False`."
            )
        self._install_engine()
        if self.ref_model is None and self.is_deepspeed_enabled and self._precompute_engine is None:
            self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)  # Trainer wraps the model only later
        folder = Path(self.args.reference_cache_dir or default_cache_dir())
        identity = reference_identity(self.ref_model or self.model, self._precompute_model_hash)
        path = folder / f"{identity}-{self.accelerator.mixed_precision}.npz"
        self._reference_store.load(path)
        trees = [token_tree(example) for example in dataset]
        missing = [t for t in trees if self._collator.pack([t]).keys[0] not in self._reference_store]
        mine = missing[self.accelerator.process_index :: self.accelerator.num_processes]
        keys: list[bytes] = []
        rounds = -(-len(missing) // (batch_size * self.accelerator.num_processes)) if missing else 0
        for number in range(rounds):  # every rank takes part in every round, if need be with a tree done before
            part = mine[number * batch_size : (number + 1) * batch_size] or missing[:1]
            batch = self._collator.pack(part).to(self.accelerator.device)
            with self._reference_model() as reference:
                logps = self._scores(reference, batch).logps
            assert logps is not None
            self._reference_store.add(batch, logps)
            keys += batch.keys
        for entries in gather_object([self._reference_store.items(keys)]):
            self._reference_store.update(entries)
        if missing and self.accelerator.is_main_process:
            self._reference_store.save(path)
        self.accelerator.wait_for_everyone()
        return dataset

    # Loss

    def _tree_batch(self, inputs: Any) -> TreeBatch:
        """The packed trees of a batch, also of one that a collator written for trl made."""
        if "trees" in inputs:
            return inputs["trees"].to(self.accelerator.device)
        return pack(trees_from_padded_pairs(inputs), self.objective.scores_free_nodes).to(self.accelerator.device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """The denominators of the whole optimizer step: `[3]`, summed over accumulation steps and ranks."""
        if not batch_samples:
            return None
        total = torch.stack([counts(self._tree_batch(inputs)) for inputs in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(total, "sum")

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | None = None) -> Any:
        """The loss of a batch; `num_items_in_batch` are the step's denominators (None: the batch's own)."""
        return self._compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool, step_counts: Tensor | None = None) -> Any:
        mode = "train" if self.model.training else "eval"
        batch = self._tree_batch(inputs)
        scores = self._scores(model, batch, Wanted(True, self.objective.wpo, self.aux_loss_enabled))
        assert scores.logps is not None
        ref_logps = self._reference_logps(batch) if self.objective.needs_reference else None
        edges = edge_tensors(scores.logps, ref_logps, batch, self.objective)
        if self.objective.wpo:
            assert scores.log_sum_sq_probs is not None
            edges["wpo_weights"] = edge_wpo_weights(scores.logps, scores.log_sum_sq_probs, batch)
        sums = loss_sums(edges, batch, self.objective, self._beta_rejected())
        if step_counts is None or mode == "eval":
            loss = normalize(sums, counts(batch))
        else:  # ranks are averaged by the backward, so that each contributes its sum times their number
            loss = normalize(sums, step_counts) * self.accelerator.num_processes
        if self.aux_loss_enabled:
            micro_batches = self.current_gradient_accumulation_steps if step_counts is not None and mode == "train" else 1
            loss = loss + (not batch.idle) * self.router_aux_loss_coef * scores.aux_loss / micro_batches
        if batch.idle:  # every parameter has its gradient, of zero
            loss = loss + 0.0 * scores.logps.sum()
        if mode == "eval":
            metric_sums.add_loss(self._batch_metrics[mode], sums, counts(batch))
        metric_sums.add_batch(self._batch_metrics[mode], scores, edges, batch, self.beta, scores.aux_loss)
        if mode == "train":
            self._total_train_tokens += 0 if batch.idle else batch.layout.length
        return (loss, self._outputs_for_metrics(model, inputs, batch)) if return_outputs else loss

    def _beta_rejected(self) -> float | None:
        progress = self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0
        return self.args.beta_rejected_at(min(progress, 1.0))

    def _outputs_for_metrics(self, model: Any, inputs: dict[str, Any], batch: TreeBatch) -> Any:
        """Logits of the unrolled rows, for `compute_metrics`; the rows' ids take the place of the packed ones."""
        warnings.warn("`compute_metrics` gets logits, which cost an extra forward pass over every path.", FutureWarning, stacklevel=2)
        rows = unshared.rows(batch)
        inputs["input_ids"] = rows.inputs["input_ids"]
        with torch.no_grad():
            return model(**rows.inputs, use_cache=False)

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means since the last log over all ranks and the 3D monitor's latest."""
        mode = "train" if self.model.training else "eval"
        means = self._batch_metrics[mode].collect(lambda totals: self.accelerator.reduce(totals.to(self.accelerator.device), "sum"))
        tokens = self.accelerator.reduce(torch.tensor(self._total_train_tokens, device=self.accelerator.device), "sum").item()
        if means:
            means["num_tokens"] = tokens
        if mode == "eval" and means:
            self._exact_evaluation_loss(logs, means)
        prefix = "eval_" if mode == "eval" else ""
        logs.update({f"{prefix}{name}": value for name, value in means.items()})
        if self._monitor is not None and mode == "train":
            logs.update(self._monitor.take())
        super().log(logs, start_time)

    def _exact_evaluation_loss(self, logs: dict[str, float], means: dict[str, float]) -> None:
        """Put the mean over all edges of the data set in the place of Trainer's mean over batches."""
        total = metric_sums.take_loss(means) + self.router_aux_loss_coef * means.get("aux_loss", 0.0)
        for name in logs:
            if name.endswith("_loss"):
                logs[name] = total

    def _watched_trees(self) -> list[TokenTree]:
        trees: list[TokenTree] = []
        for example in self.train_dataset:
            trees.append(self._collator.truncated(token_tree(example)))
            if len(trees) == self.args.monitor_prompts:
                break
        return trees

    def _sample(self, prompts: list[list[int]]) -> list[list[int]]:
        with self._quiet_model() as model:
            sampling = Sampling(self.args.monitor_max_new_tokens)
            found = sample_responses(model, prompts, sampling, tokenizer=self._tokenizer, seeds=self.args.seed)
        return [list(sample.token_ids) for (sample,) in found]

    def _score_watched(self, trees: list[TokenTree]) -> tuple[TreeBatch, Tensor]:
        batch = pack(trees, score_free=True).to(self.accelerator.device)
        with self._quiet_model() as model, self.accelerator.autocast():
            logps = self._scores(model, batch).logps
        assert logps is not None
        return batch, node_sums(logps, batch)

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


def _objective(args: PreferenceConfig) -> Objective:
    losses = args.losses()
    names = {name for loss, _ in losses for name in loss.hyperparameters}
    for loss, _ in losses:
        if args.f_divergence_type != "reverse_kl" and not loss.supports_f_divergence:
            raise ValueError(
                f"`f_divergence_type='{args.f_divergence_type}'` does not work with the loss '{loss.name}': log Z cancels only in losses "
                "on the difference of chosen and rejected scores."
            )
    return Objective(
        losses=losses,
        hyperparameters={"beta": args.beta} | {name: getattr(args, name) for name in names},
        f_divergence=args.f_divergence_type,
        f_alpha=args.f_alpha_divergence_coef,
        ld_alpha=args.ld_alpha,
        wpo=args.use_weighting,
    )


@contextlib.contextmanager
def _settings_trl_does_not_know(args: PreferenceConfig) -> Iterator[None]:
    """Our registry decides which losses take an f-divergence; trl's own list is shown the default."""
    kind, args.f_divergence_type = args.f_divergence_type, "reverse_kl"
    try:
        yield
    finally:
        args.f_divergence_type = kind
