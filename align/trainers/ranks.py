"""trl's DPOTrainer made right for any number of ranks: what each is dealt, what is saved, what a training goes on from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import IterableDataset
from torch.utils.data import DataLoader, SequentialSampler
from trl import DPOTrainer

from align.errors import InterruptedRunError
from align.runs import stop_file
from align.trainers.batches import BalancedBatches, DealtStream, TokenBudgetBatches, tree_size, tree_sizes
from align.trainers.checkpoints import Distribution, begin, check_resume, newest_to_resume
from align.trainers.collator import collate, token_tree
from align.trainers.sharding import sharding
from align.trainers.stopping import StopWhenAsked

# Trainer restores the optimizers of several ranks on CPUs to "cpu:0", a place that torch does not know by itself.
torch.serialization.register_package(11, lambda storage: None, lambda storage, place: storage if place.startswith("cpu:") else None)


class RankedTrainer(DPOTrainer):
    """Deals trees so that ranks have about as many tokens, each tree once an epoch; saves and takes up checkpoints that are whole."""

    resumed_from: Path | None = None

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, is_training: bool = False, dataloader_key: Any = None
    ) -> DataLoader[Any]:
        """As Trainer's; over several ranks, and with `max_tokens_per_batch`, in rounds of one batch a rank (`batches.py`)."""
        budget = self.args.max_tokens_per_batch if is_training else None
        ranks = 1 if self.accelerator.parallelism_config else self.accelerator.num_processes
        if budget is None and ranks == 1:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)
        drop_last = is_training and self.args.dataloader_drop_last
        if isinstance(dataset, IterableDataset):
            if budget is not None:
                raise ValueError("`max_tokens_per_batch` needs the lengths of all trees: it does not work with an IterableDataset.")
            return self._deal_stream(dataset, batch_size, ranks, drop_last)
        sizes = tree_sizes(dataset, self.args.max_length)
        if budget is not None:
            step, seed = ranks * self.args.gradient_accumulation_steps, self.args.data_seed or self.args.seed
            batches: Any = TokenBudgetBatches(sizes, budget, step, ranks, seed)
        else:
            order = (sampler_fn(dataset) if sampler_fn else None) or SequentialSampler(dataset)
            batches = BalancedBatches(order, sizes, batch_size, ranks, drop_last)
        loader = self._loader(self._remove_unused_columns(dataset, description), batch_sampler=batches)
        self.accelerator.even_batches = False  # there is a batch for every rank in every round
        return self.accelerator.prepare(loader)

    def _deal_stream(self, dataset: IterableDataset, batch_size: int, ranks: int, drop_last: bool) -> DataLoader[Any]:
        if getattr(dataset, "_distributed", None) is not None:
            raise ValueError("The stream is split by nodes already: give every rank the whole of it; the trainer deals it out.")
        mine = DealtStream(dataset, self._size, batch_size, self.accelerator.process_index, ranks, drop_last)
        loader = self._loader(mine, batch_size=None)
        return prepare_data_loader(loader, num_processes=1, process_index=0, dispatch_batches=False)  # dealt already

    def _size(self, example: Any) -> int:
        return tree_size(token_tree(example), self.args.max_length)

    def _loader(self, dataset: Any, **how: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            collate_fn=functools.partial(collate, self.data_collator),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            **how,
        )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As Trainer's. True goes on from the newest checkpoint that is whole, and begins anew where there is none.

        Raises:
            AlignError: the checkpoint is not whole, holds no optimizer, or was written by a training spread out in a way that this one
                cannot take up.
            InterruptedRunError: the stop file was made; the training has saved a checkpoint, and can go on from it.
        """
        if resume_from_checkpoint is True:
            found = newest_to_resume(Path(self.args.output_dir))
            resume_from_checkpoint = str(found) if found else None
        if resume_from_checkpoint:
            check_resume(Path(resume_from_checkpoint), self._distribution())
        self.resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if not stop_file.watched():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        stopping = StopWhenAsked(self.accelerator)
        self.add_callback(stopping)
        found = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.remove_callback(stopping)
        if stopping.stopped_at is not None:
            self.accelerator.wait_for_everyone()  # the main process may still be writing when the others are done
            raise InterruptedRunError(
                f"asked to stop at step {stopping.stopped_at} of {self.state.max_steps}: a checkpoint is saved, from which "
                "training.resume_from_checkpoint=true goes on"
            )
        return found

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; a training that goes on from its last checkpoint has no step left, where Trainer would do one more."""
        if self.state.global_step >= self.state.max_steps > 0:
            self.control.should_training_stop = True
            self.model.train()  # in which mode its last metrics are logged
            return
        super()._run_epoch(*args, **kwargs)

    def _distribution(self) -> Distribution:
        args = self.args
        batches = args.gradient_accumulation_steps * args.world_size
        if args.max_tokens_per_batch:
            return Distribution(args.world_size, sharding(args), step_rows=batches)
        return Distribution(args.world_size, sharding(args), step_trees=args.per_device_train_batch_size * batches)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:
            begin(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}", self._distribution())
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        """Each rank's last file; the main process goes on to call the checkpoint whole, and to delete old ones, when all have written."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
