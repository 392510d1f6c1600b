"""Experience replay (DICE, arXiv 2406.09760, section 3.3): generated preferences mixed with offline ones, no prompt twice."""

from __future__ import annotations

import random
from collections.abc import Sequence

from align.errors import AlignError
from align.trees import PreferenceTree
from data_pipelines.rollouts.prompts import prompt_id


def mix(generated: Sequence[PreferenceTree], offline: Sequence[PreferenceTree], share: float, seed: int) -> list[PreferenceTree]:
    """A mixture of generated and offline preferences in the sizes of DICE's released code (see `sizes`), drawn at random.

    Args:
        generated: the round's own, at most one tree per prompt.
        offline: the preference set to draw from. Of several trees with one prompt a random one counts, and none is taken for a
            prompt of a generated tree that is in the mixture: those that are left out free theirs.
        share: γ, 0 to below 1: offline ÷ all. 0 is all that was generated, and nothing else.
        seed: of the draws; the mixture depends on nothing else.

    Returns:
        The mixture in random order.

    Raises:
        AlignError: a share outside [0, 1), or so few offline preferences that no generated one would be kept.

    >>> from align.trees import Node
    >>> one, other = ([PreferenceTree(f"p{i}", (Node(text),)) for i in range(1000)] for text in ("new", "old"))
    >>> mixture = mix(one, other, 0.5, seed=0)
    >>> sum(tree in one for tree in mixture), sum(tree in other for tree in mixture)
    (500, 500)
    """
    rng = random.Random(seed)
    distinct: dict[str, PreferenceTree] = {}
    for tree in rng.sample(list(offline), len(offline)):
        distinct.setdefault(prompt_id(tree.prompt), tree)
    kept, replayed = sizes(len(generated), len(distinct), share)
    if not kept and generated:
        raise AlignError(
            f"rounds.replay is {share}, but data.train has {len(distinct)} prompts, too few to keep that share beside a single generated "
            "preference: give more offline preferences, or lower rounds.replay"
        )
    mixed = rng.sample(list(generated), kept) if kept < len(generated) else list(generated)
    used = {identity for tree in mixed for identity in (tree.id, prompt_id(tree.prompt))}  # the id is that of the prompt as it was read
    mixed += [tree for identity, tree in distinct.items() if identity not in used][:replayed]
    rng.shuffle(mixed)
    return mixed


def sizes(generated: int, offline: int, share: float) -> tuple[int, int]:
    """How many generated and how many offline preferences are mixed, as in DICE's released code, in its floating point.

    The offline set says how large a mixture may be: n_gen = min(⌊n_off (1 − γ)⌋, n_gen), and the offline part follows as
    ⌊γ n_gen / (1 − γ)⌋. So there are always enough offline prompts that no generated one uses, even where both are the same.

    Args:
        generated: generated preferences there are.
        offline: prompts of the offline set.
        share: γ, offline ÷ all; 0 keeps all that was generated.

    Raises:
        AlignError: a share outside [0, 1).

    >>> sizes(1000, 1000, 0.5), sizes(100, 1000, 0.5), sizes(1000, 100, 0.25)
    ((500, 500), (100, 100), (75, 25))
    """
    if not 0 <= share < 1:
        raise AlignError(f"rounds.replay is {share}: expected a share of offline preferences from 0 to below 1")
    if share == 0:
        return generated, 0
    kept = min(int(offline * (1 - share)), generated)
    return kept, int(share * kept / (1 - share))
