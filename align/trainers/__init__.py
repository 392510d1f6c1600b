"""Trainers: `PreferenceTrainer`, a drop-in for trl.DPOTrainer, and its callbacks."""

from align.trainers.config import PreferenceConfig
from align.trainers.monitor import ThreeDMonitor
from align.trainers.progress import CompactProgress, StageProgress
from align.trainers.trainer import PreferenceTrainer

__all__ = ["CompactProgress", "PreferenceConfig", "PreferenceTrainer", "StageProgress", "ThreeDMonitor"]
