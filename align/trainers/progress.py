"""How far a training is: a bar on a terminal, a line for each log step elsewhere, and for a run's stage what its driver shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.runs.stage import Progress, Task
from align.runs.watching import LOG_STEPS
from align.trainers.config import PreferenceConfig

_SHOWN = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "3d/chosen_drift": "chosen",
    "3d/rejected_drift": "rejected",
    "3d/unseen_drift": "unseen",
}


def _shown(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """The values of a log step that matter, by the names that they are shown under."""
    return {label: float(logs[name]) for name, label in _SHOWN.items() if name in logs} if logs else {}


class CompactProgress(ProgressCallback):
    """Loss, reward accuracy and the 3D drifts behind transformers' progress bar; where there is no terminal, a line for each log step.

    In a stage of a run the driver shows how far it is, and says by `ALIGN_LOG_STEPS` whether there are to be lines.
    """

    def __init__(self, label: str = "") -> None:
        """Args: label, in front of the bar or the lines."""
        super().__init__()
        self._label = label
        told = os.environ.get(LOG_STEPS)
        self._bar = told is None and sys.stderr.isatty()
        self._lines = told == "1" or (told is None and not self._bar)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar, and say which losses are trained with which β."""
        if self._bar:
            super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self._label)
        if isinstance(args, PreferenceConfig) and state.is_world_process_zero:
            losses = f"{self._label}: loss {args.described_losses()}"
            self.training_bar.write(losses, file=sys.stderr) if self.training_bar is not None else print(losses, flush=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Evaluation has a bar on a terminal alone."""
        if self._bar:
            super().on_prediction_step(*args, **kwargs)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Put the latest values behind the bar, or on a line."""
        values = _shown(logs)
        if not state.is_world_process_zero or not values:
            return
        if self.training_bar is not None:
            self.training_bar.set_postfix({label: f"{value:.2f}" for label, value in values.items()})
        elif self._lines:
            words = [f"step {state.global_step} of {state.max_steps}", *(f"{label} {value:.2f}" for label, value in values.items())]
            print(f"{self._label}: {', '.join(words)}", flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)


class StageProgress(TrainerCallback):
    """Leaves in a stage's folder how many steps are done, with the latest loss and accuracy, for the driver and `align status`."""

    def __init__(self, task: Task) -> None:
        """Args: the task of the stage."""
        self._task, self._progress = task, Progress(task, 0)
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Know how many steps there are, and how many a checkpoint has taken already."""
        self._progress = Progress(self._task, state.max_steps, state.global_step, "steps")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count a step."""
        if state.is_world_process_zero:
            self._progress.advance(1, **self._latest)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Remember the latest values."""
        self._latest |= {name: value for name, value in _shown(logs).items() if name in ("loss", "accuracy")}
