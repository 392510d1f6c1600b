"""The guard of the reference: before the first step it is what the policy is; when a training goes on, it is what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.files import read_json, write_json

RECORD = "reference.json"
_LIMITS = {torch.float32: 1e-4, torch.float64: 1e-4}  # nats per token; what rounding does to equal models is a hundredth of it
_LIMIT_OF_HALF_PRECISION = 0.05


@dataclass(frozen=True)
class Sample:
    """The reference's log-probs of the first records, by which it is known again.

    Attributes:
        keys: of the records' contents.
        logps: of each record's scored tokens.
    """

    keys: list[str]
    logps: list[list[float]]

    @classmethod
    def of(cls, keys: Sequence[bytes], slices: Sequence[tuple[int, int]], logps: Tensor) -> Sample:
        """Of a packed batch: its trees' keys, where their tokens lie, and the log-probs `[S]` of these."""
        values = logps.detach().double().cpu().tolist()
        return cls([key.hex() for key in keys], [values[start:end] for start, end in slices])

    def write(self, checkpoint: Path) -> None:
        """Keep it in a checkpoint."""
        write_json(checkpoint / RECORD, asdict(self))

    @classmethod
    def read(cls, checkpoint: Path) -> Sample | None:
        """The one that a checkpoint holds, if it does.

        Raises:
            DamagedError: the file does not hold what was written to it.
        """
        content = read_json(checkpoint / RECORD, _is_sample)
        return cls(**content) if content is not None else None

    def distance(self, other: Sample) -> float | None:
        """Mean absolute difference in nats per token over the records that both have; None where they have none in common."""
        theirs = dict(zip(other.keys, other.logps, strict=True))
        gaps: list[float] = []
        for key, mine in zip(self.keys, self.logps, strict=True):
            gaps += [abs(a - b) for a, b in zip(mine, theirs.get(key, []), strict=False)]
        return sum(gaps) / len(gaps) if gaps else None


def _is_sample(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() == {"keys", "logps"}
        and all(isinstance(value, list) for value in content.values())
        and all(isinstance(numbers, list) for numbers in content["logps"])
        and len(content["keys"]) == len(content["logps"])
    )


def limit(dtypes: Sequence[torch.dtype]) -> float:
    """The largest difference in nats per token that is taken for rounding, for a model that computes in these types."""
    return max((_LIMITS.get(dtype, _LIMIT_OF_HALF_PRECISION) for dtype in dtypes), default=_LIMIT_OF_HALF_PRECISION)


def differs_at_the_start(distance: float, allowed: float, records: int, reference: str) -> str:
    """The sentence of a training whose reference is not its policy."""
    return (
        f"before the first step the policy and its reference differ by {distance:.3g} nats per token on the first {records} records "
        f"(rounding explains {allowed:g}): the reference is {reference}, and the policy is not, or no longer, that model. "
        "Make the trainer after the last change to the model; to train against another reference on purpose, "
        "pass it as ref_model (model.reference in a recipe) or set check_reference=False"
    )


def differs_from_before(distance: float, allowed: float, checkpoint: Path, reference: str) -> str:
    """The sentence of a training that would go on against another reference than it began with."""
    return (
        f"checkpoint '{checkpoint}' was trained against another reference: the one at hand, {reference}, gives other log-probs on the "
        f"first records ({distance:.3g} nats per token; rounding explains {allowed:g}). "
        "Pass the model (and ref_model) that the training began with, not the trained one: resuming loads the trained weights from "
        "the checkpoint; check_reference=False goes on all the same"
    )


def column_differs(column: str, record: int, value: float, computed: float) -> str:
    """The sentence of a data set that brings the log-probs of another reference along."""
    return (
        f"train data set, record {record}: the column `{column}` says {value:.4f}, the reference gives {computed:.4f}. "
        "Such columns are not read, the reference is computed; these come from another reference, template or truncation. "
        "Pass that reference as ref_model, or remove the columns"
    )
