"""Do the sampler's log-probs agree with the policy's own? Measured in every round: it shows precision, and stale weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from align.errors import AlignError

FOREIGN = 0.5  # nats a token: samplers differ from trainers by rounding, not by this much


def agreement(scores: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """How far the sampler's log-probs are from the policy's own.

    Args:
        scores: of each prompt, the details of its responses, as the implicit scorer leaves them.

    Returns:
        Over all responses that have both: `responses`; `per_token`, the mean of |Δ log π(y|x)| ÷ tokens; `largest`, of a
        single token; `same_best`, the share of prompts whose best response by reward is the same with either. Empty, if
        no response has both.
    """
    both = [[r for r in mine if "policy_logp" in r and "sampler_logp" in r] for mine in scores]
    flat = [response for mine in both for response in mine]
    if not flat:
        return {}
    best = [_best(mine, "policy_logp") == _best(mine, "sampler_logp") for mine in both if mine]
    return {
        "responses": len(flat),
        "per_token": mean([abs(r["policy_logp"] - r["sampler_logp"]) / r["tokens"] for r in flat]),
        "largest": max(r["largest_difference"] for r in flat),
        "same_best": mean(best),
    }


def check_sampler(found: Mapping[str, float]) -> None:
    """See that the samples came from this policy: an engine that still serves an older model shows here.

    Raises:
        AlignError: the log-probs differ by more than precision can explain.
    """
    if found and found["per_token"] > FOREIGN:
        raise AlignError(
            f"the sampler's log-probs differ from the policy's by {found['per_token']:.2g} nats a token: the samples come from another "
            "model (a server that was not restarted for this round?) or another tokenizer"
        )


def _best(responses: Sequence[Mapping[str, float]], key: str) -> int:
    rewards = [response[key] - response["reference_logp"] for response in responses]
    return rewards.index(max(rewards))
