"""A progress bar that carries the numbers that matter, instead of a line of thirty for every log."""

from __future__ import annotations

import sys
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from align.trainers.config import PreferenceConfig

_SHOWN = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "3d/chosen_drift": "chosen",
    "3d/rejected_drift": "rejected",
    "3d/unseen_drift": "unseen",
}


class CompactProgress(ProgressCallback):
    """transformers' progress bar with loss, reward accuracy and the 3D drifts behind it."""

    def __init__(self, label: str = "") -> None:
        """Args: label, in front of the bar."""
        super().__init__()
        self._label = label

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self._label)
            if isinstance(args, PreferenceConfig):
                self.training_bar.write(f"{self._label}: loss {args.described_losses()}", file=sys.stderr)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Put the latest values behind the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            values = {label: f"{logs[name]:.2f}" for name, label in _SHOWN.items() if name in logs}
            self.training_bar.set_postfix(values)
