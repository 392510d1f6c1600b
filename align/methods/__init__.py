"""Methods as trainers: what a recipe does, from Python.

`DICETrainer`, `SELMTrainer`, `SelfRewardingTrainer`, `OnlineDPOTrainer`, `IterativeReasoningTrainer`, `ChainOfPreferenceTrainer`,
`StepDPOTrainer`, `CodePreferenceTrainer`, and `RoundsTrainer` for a choice of parts of your own, each with its config.
"""

from align.methods.config import (
    ChainOfPreferenceConfig,
    CodePreferenceConfig,
    DICEConfig,
    IterativeReasoningConfig,
    OnlineDPOConfig,
    RewardRoundsConfig,
    RoundsConfig,
    SelfRewardingConfig,
    SELMConfig,
    StepDPOConfig,
    ThoughtsConfig,
)
from align.methods.trainer import (
    ChainOfPreferenceTrainer,
    CodePreferenceTrainer,
    DICETrainer,
    IterativeReasoningTrainer,
    OnlineDPOTrainer,
    RoundsTrainer,
    SelfRewardingTrainer,
    SELMTrainer,
    StepDPOTrainer,
)

__all__ = [
    "ChainOfPreferenceConfig", "ChainOfPreferenceTrainer", "CodePreferenceConfig", "CodePreferenceTrainer", "DICEConfig", "DICETrainer",
    "IterativeReasoningConfig", "IterativeReasoningTrainer", "OnlineDPOConfig", "OnlineDPOTrainer", "RewardRoundsConfig", "RoundsConfig",
    "RoundsTrainer", "SELMConfig", "SELMTrainer", "SelfRewardingConfig", "SelfRewardingTrainer", "StepDPOConfig", "StepDPOTrainer",
    "ThoughtsConfig",
]  # fmt: skip
