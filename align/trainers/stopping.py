"""A training that is asked to stop (`align.runs.stop_file`) saves a checkpoint after the step that it is in, and ends."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState

from align.runs.stop_file import asked_to_stop


class StopWhenAsked(TrainerCallback):
    """Looks for the file after every step, on the main process for all ranks.

    Attributes:
        stopped_at: the step after which the training was stopped; None while it goes on.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.stopped_at: int | None = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Have the trainer save and stop."""
        asked = torch.tensor(int(self.accelerator.is_main_process and asked_to_stop()), device=self.accelerator.device)
        if self.accelerator.reduce(asked, "sum").item() and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
        return control
