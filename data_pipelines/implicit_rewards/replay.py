"""Experience replay (DICE, section 3.3): generated preferences mixed with offline ones, no prompt twice."""

from __future__ import annotations

import random
from collections.abc import Sequence

from align.errors import AlignError
from align.trees import PreferenceTree
from data_pipelines.rollouts.prompts import prompt_id


def mix(generated: Sequence[PreferenceTree], offline: Sequence[PreferenceTree], share: float, seed: int) -> list[PreferenceTree]:
    """Add offline preferences until they are a share of all.

    Args:
        generated: the round's own; all are kept.
        offline: the preference set to draw from, in an order that depends on the seed alone. A tree is taken only for a
            prompt that occurs nowhere else in the result.
        share: γ, 0 to below 1: offline ÷ all. Where there are too few, all there are.
        seed: of the draw.

    Returns:
        The mixture in random order.

    Raises:
        AlignError: a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise AlignError(f"rounds.replay is {share}: expected a share of offline preferences from 0 to below 1")
    rng = random.Random(seed)
    wanted = round(len(generated) * share / (1 - share))
    used = {prompt_id(tree.prompt) for tree in generated}
    drawn: list[PreferenceTree] = []
    for tree in rng.sample(list(offline), len(offline)):
        if len(drawn) == wanted:
            break
        identity = prompt_id(tree.prompt)
        if identity not in used:
            used.add(identity)
            drawn.append(tree)
    mixed = [*generated, *drawn]
    rng.shuffle(mixed)
    return mixed
