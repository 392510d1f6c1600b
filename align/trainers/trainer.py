"""`PreferenceTrainer`: a drop-in for trl.DPOTrainer that trains on preference trees, one packed forward a batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.engine import TokenTree, TreeBatch, Wanted, node_sums, unshared
from align.engine.generate import sample_responses
from align.sampling import Sampling
from align.trainers import metrics as metric_sums
from align.trainers.between_logs import BetweenLogs, LogsGoOn
from align.trainers.collator import (
    PAIR_COLUMNS,
    TREE_COLUMNS,
    TreeCollator,
    token_tree,
    trees_from_padded_pairs,
)
from align.trainers.config import PreferenceConfig
from align.trainers.data import Preparation, StreamSummary, as_dataset
from align.trainers.engine_trainer import EngineTrainer
from align.trainers.monitor import ThreeDMonitor
from align.trainers.objective import Objective, edge_tensors, edge_wpo_weights, loss_sums, normalize
from align.trainers.sharding import check_fsdp

logger = logging.getLogger(__name__)
TRL_BETA = 0.1  # trl's default, whatever the loss


class PreferenceTrainer(EngineTrainer):
    """Trains on preference pairs and trees; constructor and data formats of `trl.DPOTrainer`.

    Beyond those, `train_dataset` and `eval_dataset` may be data sets of tree records (`align.trees`) or lists of
    `PreferenceTree`. The loss is the mean over the edges of the whole optimizer step, over accumulation steps and
    ranks, so how trees are packed changes nothing.

    Args and raises: as `trl.DPOTrainer`, with `args` a `PreferenceConfig`.
    """

    loss_is_scaled_for_ga = True
    _tag_names = ["trl", "dpo", "align"]

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
        self._batch_metrics = {"train": metric_sums.MetricSums(), "eval": metric_sums.MetricSums()}
        self._evaluated = "eval"  # with the data set's name, where there are several
        self._monitor: ThreeDMonitor | None = None
        self._preparations: list[Preparation] = []
        check_fsdp(args)
        self.objective = _objective(args)
        args.precompute_ref_log_probs |= self._must_precompute(args, model, train_dataset, kwargs.get("peft_config"))
        self._collator = TreeCollator(args.max_length, args.truncation_mode, self.objective.scores_free_nodes, self.objective.reads_margins)
        super().__init__(
            model, ref_model, args, data_collator or self._collator, as_dataset(train_dataset), as_dataset(eval_dataset), **kwargs
        )
        self.f_divergence_type = args.f_divergence_type
        self.beta = self.objective.reward_scale
        if args.beta is None and any(beta != TRL_BETA for beta in args.betas().values()):
            logger.warning("`beta` is not set, the losses take their authors' (trl: %g): %s.", TRL_BETA, args.described_losses())
        self._install_engine()
        self.add_callback(StreamSummary(self._preparations))
        self.add_callback(LogsGoOn(self))
        if args.monitor_3d and args.monitor_prompts > 0:
            self._monitor = ThreeDMonitor(self._watched_trees, self._sample, self._score_watched)
            self.add_callback(self._monitor)

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

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As Trainer's; the metrics of one data set are named for it and do not run into another's."""
        self._evaluated, self._batch_metrics["eval"] = metric_key_prefix, metric_sums.MetricSums()
        return super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)

    # Loss

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> tuple[Tensor, Tensor]:
        """The reference's log-probs of the chosen and rejected end of every edge: two of `[E]`."""
        batch = self._tree_batch(inputs)
        edges = edge_tensors(self._reference_logps(batch), None, batch, self.objective)
        return edges["chosen_logps"], edges["rejected_logps"]

    def _tree_batch(self, inputs: Any) -> TreeBatch:
        """The packed trees of a batch, also of one that a collator written for trl made."""
        if "trees" not in inputs:  # kept, as the step's counts and its loss both ask for it
            inputs["trees"] = self._collator.packed(trees_from_padded_pairs(inputs))
        return inputs["trees"].to(self.accelerator.device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """The denominators of the whole optimizer step: `[3]`, summed over accumulation steps and ranks."""
        if not batch_samples:
            return None
        total = torch.stack([self._tree_batch(inputs).counts for inputs in batch_samples]).sum(0).to(device)
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
            edges["wpo_weights"] = edge_wpo_weights(scores.logps, scores.log_sum_sq_probs, batch, self.objective.wpo_max_weight)
        sums = loss_sums(edges, batch, self.objective, self._beta_rejected())
        if step_counts is None or mode == "eval":
            loss = normalize(sums, batch.counts)
        else:  # ranks are averaged by the backward, so that each contributes its sum times their number
            loss = normalize(sums, step_counts) * self.accelerator.num_processes
        if self.aux_loss_enabled:
            micro_batches = self.current_gradient_accumulation_steps if step_counts is not None and mode == "train" else 1
            loss = loss + (not batch.idle) * self.router_aux_loss_coef * scores.aux_loss / micro_batches
        if batch.idle:  # every parameter has its gradient, of zero
            loss = loss + 0.0 * scores.logps.sum()
        if mode == "eval":
            metric_sums.add_loss(self._batch_metrics[mode], sums, batch.counts)
        metric_sums.add_batch(self._batch_metrics[mode], scores, edges, batch, self.beta, scores.aux_loss)
        if mode == "train":
            self._total_train_tokens += 0 if batch.idle else batch.layout.used
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
        prefix = f"{self._evaluated}_" if mode == "eval" else ""
        logs.update({f"{prefix}{name}": value for name, value in means.items()})
        if self._monitor is not None and mode == "train":
            logs.update(self._monitor.take())
        super().log(logs, start_time)

    def summed_metrics(self, mode: str) -> metric_sums.MetricSums:
        """What has been added to the metrics of "train" or "eval" since the last log."""
        return self._batch_metrics[mode]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        between = BetweenLogs.of(self)
        if self.args.should_save:
            between.write(self._checkpoint(trial))
        super()._save_checkpoint(model, trial)

    def _exact_evaluation_loss(self, logs: dict[str, float], means: dict[str, float]) -> None:
        """Put the mean over all edges of the data set in the place of Trainer's mean over batches."""
        total = metric_sums.take_loss(means) + self.router_aux_loss_coef * means.get("aux_loss", 0.0)
        if f"{self._evaluated}_loss" in logs:
            logs[f"{self._evaluated}_loss"] = total

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
        batch = replace(self._collator, score_free=True).packed(trees).to(self.accelerator.device)
        with self._quiet_model() as model, self.accelerator.autocast():
            logps = self._scores(model, batch).logps
        assert logps is not None
        return batch, node_sums(logps, batch)


def _objective(args: PreferenceConfig) -> Objective:
    losses = args.losses()
    for loss, _ in losses:
        if args.f_divergence_type != "reverse_kl" and not loss.supports_f_divergence:
            raise ValueError(
                f"`f_divergence_type='{args.f_divergence_type}'` does not work with the loss '{loss.name}': log Z cancels only in losses "
                "on the difference of chosen and rejected scores."
            )
    return Objective(
        losses=losses,
        hyperparameters=args.hyperparameters(),
        f_divergence=args.f_divergence_type,
        f_alpha=args.f_alpha_divergence_coef,
        ld_alpha=args.ld_alpha,
        wpo=args.use_weighting,
        wpo_max_weight=args.wpo_max_weight,
    )
