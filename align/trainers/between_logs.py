"""What a training sums between two logs, kept in its checkpoints: one that is resumed logs what an undisturbed one would have logged."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from align.files import DamagedError, read_json, write_json

logger = logging.getLogger(__name__)
RECORD = "between_logs.json"


@dataclass(frozen=True)
class BetweenLogs:
    """Sums over all ranks.

    Attributes:
        loss: the losses since the last log, mean over ranks.
        total_loss: the losses of all logs before.
        logged_at: the step of the last log.
        tokens: trained on so far.
        metrics: name → [total, count] since the last log.
    """

    loss: float
    total_loss: float
    logged_at: int
    tokens: int
    metrics: dict[str, list[float]]

    @classmethod
    def of(cls, trainer: Any) -> BetweenLogs:
        """Those of a `PreferenceTrainer` that trains; all ranks take part."""

        def total(value: torch.Tensor) -> torch.Tensor:
            return trainer.accelerator.reduce(value.to(trainer.accelerator.device), "sum")

        loss = total(trainer._tr_loss.detach().clone()).item() / trainer.accelerator.num_processes
        tokens = int(total(torch.tensor(trainer._total_train_tokens)).item())
        metrics = trainer.summed_metrics("train").state(total)
        return cls(loss, trainer._total_loss_scalar, trainer._globalstep_last_logged, tokens, metrics)

    def write(self, checkpoint: Path) -> None:
        """Keep them in a checkpoint."""
        write_json(checkpoint / RECORD, asdict(self))

    @classmethod
    def read(cls, checkpoint: Path) -> BetweenLogs | None:
        """Those of a checkpoint, which the main process reads for all ranks; None where it holds none, or damaged ones."""
        content = None
        try:
            content = read_json(checkpoint / RECORD, _is_whole)
        except DamagedError as error:
            logger.warning("%s: the logs count from here on.", error)
        found = [content]
        broadcast_object_list(found)
        return cls(**found[0]) if found[0] else None

    def take_up(self, trainer: Any) -> None:
        """Let a trainer that goes on from the checkpoint count on; what is summed over ranks, the main process has."""
        main, device = trainer.accelerator.is_main_process, trainer.accelerator.device
        trainer._tr_loss += self.loss
        trainer._total_loss_scalar = self.total_loss
        trainer._globalstep_last_logged = self.logged_at
        trainer._total_train_tokens = self.tokens if main else 0
        trainer.summed_metrics("train").take_up(self.metrics, device, share=1.0 if main else 0.0)


class LogsGoOn(TrainerCallback):
    """Takes up what the checkpoint holds that a training goes on from, once Trainer has set its own sums to nothing."""

    def __init__(self, trainer: Any) -> None:
        """Args: a `PreferenceTrainer`."""
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take them up, where there are some."""
        checkpoint = self._trainer.resumed_from
        if checkpoint is not None and (kept := BetweenLogs.read(checkpoint)) is not None:
            kept.take_up(self._trainer)


def _is_whole(content: Any) -> bool:
    numbers: dict[str, Any] = {"loss": (int, float), "total_loss": (int, float), "logged_at": int, "tokens": int, "metrics": dict}
    return (
        isinstance(content, dict)
        and content.keys() == numbers.keys()
        and all(isinstance(content[name], type) for name, type in numbers.items())
        and all(isinstance(pair, list) and len(pair) == 2 for pair in content["metrics"].values())
    )
