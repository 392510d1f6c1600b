"""How responses are drawn, and what comes of it: the two types that every sampler shares. No library is needed to name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a response ends.

    Attributes:
        max_new_tokens: longest response.
        temperature: 0 decodes greedily.
        top_p, top_k, min_p: filters, in that they are 1, 0 and 0 off.
        stop: texts that end a response; they are not part of its text (their tokens stand in its token ids).
        stop_token_ids: tokens that end a response beside the tokenizer's and the model's own end tokens.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One response.

    Attributes:
        token_ids: as sampled, the end token included; empty for an empty prompt.
        logps: log π of each token, of the model itself: at temperature 1, before any filter. Nats.
        finish_reason: "stop" (an end token or a stop text) or "length".
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
