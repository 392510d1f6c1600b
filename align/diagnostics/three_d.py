"""The 3D-properties of preference training (arXiv 2406.07327): drastic drop, degradation, dispersion."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ThreeD:
    """Means over a fixed set of prompts; log-probs in nats a response, drifts against the start of training.

    Attributes:
        chosen_logp, rejected_logp, unseen_logp: mean log π of chosen, rejected and unseen responses. `unseen` are
            samples of the reference that are never trained on.
        chosen_drift, rejected_drift, unseen_drift: their change from the start.
        log_gradient_ratio: mean of log(p⁺/p⁻), the log of |∂L/∂p⁻| / |∂L/∂p⁺|.
        seen_logp: mean of log(p⁺ + p⁻), the mass on what was trained on.
    """

    chosen_logp: float
    rejected_logp: float
    unseen_logp: float
    chosen_drift: float
    rejected_drift: float
    unseen_drift: float
    log_gradient_ratio: float
    seen_logp: float

    def as_metrics(self) -> dict[str, float]:
        """By the names used in logs: `3d/…`."""
        return {f"3d/{name}": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Thresholds:
    """When a property counts as set in; nats a response."""

    drop: float = 5.0
    degradation: float = 1.0
    dispersion: float = 1.0


@dataclass(frozen=True)
class NodeLogps:
    """log π of the watched responses: chosen and rejected `[edges]`, unseen `[responses]`."""

    chosen: Tensor
    rejected: Tensor
    unseen: Tensor


def measure(now: NodeLogps, start: NodeLogps) -> ThreeD:
    """Compare log-probs with those at the start.

    >>> start = NodeLogps(torch.tensor([-2.0]), torch.tensor([-3.0]), torch.tensor([-4.0]))
    >>> measure(NodeLogps(torch.tensor([-1.0]), torch.tensor([-9.0]), torch.tensor([-4.0])), start).rejected_drift
    -6.0
    """

    def mean(x: Tensor) -> float:
        return float(x.double().mean()) if len(x) else 0.0

    return ThreeD(
        chosen_logp=mean(now.chosen),
        rejected_logp=mean(now.rejected),
        unseen_logp=mean(now.unseen),
        chosen_drift=mean(now.chosen - start.chosen),
        rejected_drift=mean(now.rejected - start.rejected),
        unseen_drift=mean(now.unseen - start.unseen),
        log_gradient_ratio=mean(now.chosen - now.rejected),
        seen_logp=mean(torch.logaddexp(now.chosen, now.rejected)),
    )


def findings(state: ThreeD, thresholds: Thresholds | None = None) -> list[str]:
    """The properties that have set in, in plain words.

    >>> start = NodeLogps(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    >>> findings(measure(NodeLogps(torch.tensor([-2.0]), torch.tensor([-9.0]), torch.tensor([0.0])), start))[1][:40]
    'degradation: chosen responses are now 7.'
    """
    limit = thresholds or Thresholds()
    found = []
    if state.rejected_drift < -limit.drop and -state.rejected_drift > 2 * max(state.chosen_drift, 0.0):
        found.append(f"drastic drop: rejected responses are now {_factor(state.rejected_drift)} times less likely than at the start")
    if state.chosen_drift < -limit.degradation:
        found.append(
            f"degradation: chosen responses are now {_factor(state.chosen_drift)} times less likely than at the start, "
            "though the training prefers them; try an SFT term (sft_weight) or a smaller beta_rejected"
        )
    if state.unseen_drift > limit.dispersion:
        found.append(
            f"dispersion: responses never trained on are now {_factor(-state.unseen_drift)} times more likely than at the start: "
            "probability leaves the training data"
        )
    return found


def _factor(drift: float) -> str:
    """e^−drift to three digits that count.

    >>> _factor(-9.175), _factor(-0.7), _factor(-40.0)
    ('9,653', '2.01', '2.35e+17')
    """
    factor = torch.tensor(-drift).double().exp().item()
    return f"{factor:,.0f}" if 1000 <= factor < 1e9 else f"{factor:.3g}"
