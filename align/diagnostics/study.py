"""The toy study of the 3D-properties (arXiv 2406.07327, section 4.1): a policy small enough that every likelihood can be seen.

Four prompts, ten responses, a three-layer MLP over one-hot prompts. For each prompt one response is chosen, one rejected, eight
never seen; chosen and rejected are on-policy (likely at the start) or off-policy (unlikely): four scenarios, each trained with DPO,
Flex-DPO, SFT-DPO and both regularizers. All trainings run side by side, as one batch of small policies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.losses import flex, nll_sum, sigmoid

SCENARIOS = (("on", "on"), ("on", "off"), ("off", "on"), ("off", "off"))
"""Chosen and rejected responses: on-policy or off-policy."""
METHODS = {"DPO": (False, False), "Flex-DPO": (True, False), "SFT-DPO": (False, True), "both": (True, True)}
"""Name → whether β⁻ differs from β⁺, whether there is an SFT term."""


@dataclass(frozen=True)
class Study:
    """What is trained.

    Attributes:
        prompts, responses, hidden: sizes. Response i is chosen for prompt i, response `prompts` + i rejected: more than two a prompt.
        on_policy, off_policy: probability of a chosen or rejected response at the start.
        beta, beta_rejected, sft_weight: of the losses.
        steps, learning_rate: of Adam.
        repeats: policies a scenario and method, over whose starts the curves are means.
        seed: of those starts.
    """

    prompts: int = 4
    responses: int = 10
    hidden: int = 16
    on_policy: float = 0.4
    off_policy: float = 0.01
    beta: float = 0.1
    beta_rejected: float = 0.05
    sft_weight: float = 0.1
    steps: int = 150
    learning_rate: float = 3e-3
    repeats: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Curves:
    """One scenario under one method, `[steps + 1]` each: means over prompts and repeats.

    Attributes:
        chosen, rejected, unseen: probability of the chosen response, of the rejected one, of all others together.
        chosen_logp, rejected_logp: mean log-probability, nats.
        chosen_gradient, rejected_gradient: |∂L/∂p⁺| and |∂L/∂p⁻|.
    """

    scenario: tuple[str, str]
    method: str
    chosen: Tensor
    rejected: Tensor
    unseen: Tensor
    chosen_logp: Tensor
    rejected_logp: Tensor
    chosen_gradient: Tensor
    rejected_gradient: Tensor


@dataclass(frozen=True)
class Strength:
    """How strongly each property appears.

    Attributes:
        drop: orders of magnitude that the rejected response's likelihood has lost.
        degradation: nats that the chosen response's log-likelihood has lost since its peak.
        dispersion: probability of unseen responses at the end, which the training meant for the chosen one.
        rise: the most that the unseen responses' probability rose between an earlier and a later step.
    """

    drop: float
    degradation: float
    dispersion: float
    rise: float


LEVELS = {"drop": (1.0, 8.0), "degradation": (0.1, 1.0), "dispersion": (0.1, 0.5)}
"""From where on a property appears, and from where on it is strong."""


def appears(found: Strength) -> dict[str, str]:
    """Whether each property appears: "no", "yes" or "strongly"."""
    return {
        name: "strongly" if getattr(found, name) >= strong else "yes" if getattr(found, name) >= there else "no"
        for name, (there, strong) in LEVELS.items()
    }


def strength(curves: Curves) -> Strength:
    """Measure the properties on curves."""
    lowest = curves.unseen.cummin(0).values
    return Strength(
        drop=float((curves.rejected_logp[0] - curves.rejected_logp[-1]) / torch.log(torch.tensor(10.0))),
        degradation=float(curves.chosen_logp.max() - curves.chosen_logp[-1]),
        dispersion=float(curves.unseen[-1]),
        rise=float((curves.unseen - lowest).max()),
    )


def summary(curves: Sequence[Curves]) -> list[tuple[str, ...]]:
    """A table of the properties: its columns, then a row a scenario and method."""
    found: list[tuple[str, ...]] = [("chosen", "rejected", "method", "p⁺", "p⁻", "drastic drop", "degradation", "dispersion")]
    for one in curves:
        measured = strength(one)
        there = appears(measured)
        found.append(
            (
                *(f"{policy}-policy" for policy in one.scenario),
                one.method,
                f"{one.chosen[0].item():.2f} → {one.chosen[-1].item():.2f}",
                f"{one.rejected[0].item():.2f} → {one.rejected[-1].item():.0e}",
                f"{there['drop']}: {measured.drop:.1f} orders",
                f"{there['degradation']}: {measured.degradation:.2f} nats",
                f"{there['dispersion']}: {measured.dispersion:.1%} unseen",
            )
        )
    return found


def run(study: Study | None = None) -> list[Curves]:
    """Train every scenario under every method.

    Returns:
        Curves by scenario, then method, in the order of `SCENARIOS` and `METHODS`.

    Raises:
        ValueError: too few responses for the prompts.
    """
    study = study or Study()
    if study.responses <= 2 * study.prompts:
        raise ValueError(
            f"{study.responses} responses to {study.prompts} prompts: expected more than {2 * study.prompts}, so that some are unseen"
        )
    cells = [(scenario, method) for scenario in SCENARIOS for method in METHODS]
    policies = _Policies(study, [scenario for scenario, _ in cells for _ in range(study.repeats)])
    switches = [METHODS[method] for _, method in cells for _ in range(study.repeats)]
    flexible, supervised = (torch.tensor([switch[place] for switch in switches])[:, None] for place in (0, 1))
    optimizer = torch.optim.Adam(policies.weights, lr=study.learning_rate)
    chosen, rejected = policies.chosen, policies.rejected
    history = []
    for _ in range(study.steps + 1):
        logps = policies.log_probs()
        logps.retain_grad()
        ratios = logps - policies.start
        plus, minus = ratios[:, chosen, chosen], ratios[:, chosen, rejected]
        loss = torch.where(
            flexible, flex(plus, minus, beta=study.beta, beta_rejected=study.beta_rejected), sigmoid(plus, minus, beta=study.beta)
        )
        loss = loss + supervised * study.sft_weight * nll_sum(logps[:, chosen, chosen])
        optimizer.zero_grad()
        loss.mean(1).sum().backward()
        history.append(_seen(logps, chosen, rejected))
        optimizer.step()
    table = torch.stack(history, -1).unflatten(1, (len(cells), study.repeats)).mean(2)  # [quantity, cell, step]
    return [Curves(scenario, method, *table[:, place]) for place, (scenario, method) in enumerate(cells)]


def _seen(logps: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The quantities of `Curves` for each policy: `[7, policies]`."""
    gradient = logps.grad
    assert gradient is not None
    now = logps.detach()
    plus, minus = now[:, chosen, chosen], now[:, chosen, rejected]
    unseen = 1 - plus.exp() - minus.exp()
    by_chosen = (gradient[:, chosen, chosen] / plus.exp()).abs()  # ∂L/∂p = ∂L/∂log p / p
    by_rejected = (gradient[:, chosen, rejected] / minus.exp()).abs()
    return torch.stack([part.mean(1) for part in (plus.exp(), minus.exp(), unseen, plus, minus, by_chosen, by_rejected)])


class _Policies:
    """A batch of policies, each fitted to a start in which chosen and rejected are as likely as its scenario says."""

    def __init__(self, study: Study, scenarios: Sequence[tuple[str, str]]) -> None:
        self.chosen = torch.arange(study.prompts)
        self.rejected = self.chosen + study.prompts
        starts = [
            self._one(study, scenario, study.seed * study.repeats + place % study.repeats) for place, scenario in enumerate(scenarios)
        ]
        self.weights = [torch.stack(layer).requires_grad_() for layer in zip(*(weights for weights, _ in starts), strict=True)]
        wanted = torch.stack([target for _, target in starts])
        optimizer = torch.optim.Adam(self.weights, lr=1e-2)
        for _ in range(400):
            optimizer.zero_grad()
            (-(wanted * self.log_probs()).sum(-1).mean(1).sum()).backward()
            optimizer.step()
        self.start = self.log_probs().detach()

    def _one(self, study: Study, scenario: tuple[str, str], seed: int) -> tuple[list[Tensor], Tensor]:
        draw = torch.Generator().manual_seed(seed)
        sizes = (study.prompts, study.hidden, study.hidden, study.responses)
        weights = [torch.randn(a, b, generator=draw, dtype=torch.float64) / a**0.5 for a, b in itertools.pairwise(sizes)]
        target = torch.exp(0.5 * torch.randn(study.prompts, study.responses, generator=draw, dtype=torch.float64))
        likely = {"on": study.on_policy, "off": study.off_policy}
        target[self.chosen, self.chosen] = target[self.chosen, self.rejected] = 0.0
        target *= (1 - likely[scenario[0]] - likely[scenario[1]]) / target.sum(1, keepdim=True)
        target[self.chosen, self.chosen], target[self.chosen, self.rejected] = likely[scenario[0]], likely[scenario[1]]
        return weights, target

    def log_probs(self) -> Tensor:
        """log π of every response to every prompt, `[policies, prompts, responses]`."""
        first, second, third = self.weights
        return (torch.relu(torch.relu(first) @ second) @ third).log_softmax(-1)  # one-hot prompts pick the first layer's rows
