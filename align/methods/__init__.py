"""Methods as trainers: what a recipe does, from Python. `DICETrainer`, `SELMTrainer`, `SelfRewardingTrainer`, `IterativeReasoningTrainer`,
`ChainOfPreferenceTrainer`, `CodePreferenceTrainer`, and `RoundsTrainer` for a choice of parts of your own, each with its config.
"""

from align.methods.config import (
    ChainOfPreferenceConfig,
    CodePreferenceConfig,
    DICEConfig,
    IterativeReasoningConfig,
    RewardRoundsConfig,
    RoundsConfig,
    SelfRewardingConfig,
    SELMConfig,
)
from align.methods.trainer import (
    ChainOfPreferenceTrainer,
    CodePreferenceTrainer,
    DICETrainer,
    IterativeReasoningTrainer,
    RoundsTrainer,
    SelfRewardingTrainer,
    SELMTrainer,
)

__all__ = [
    "ChainOfPreferenceConfig", "ChainOfPreferenceTrainer", "CodePreferenceConfig", "CodePreferenceTrainer", "DICEConfig", "DICETrainer",
    "IterativeReasoningConfig", "IterativeReasoningTrainer", "RewardRoundsConfig", "RoundsConfig", "RoundsTrainer", "SELMConfig",
    "SELMTrainer", "SelfRewardingConfig", "SelfRewardingTrainer",
]  # fmt: skip
