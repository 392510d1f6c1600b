"""The names of losses: ours, the aliases that papers and other trainers use, and what is said about a name that is none."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.registry import keyword_only_in

COMPOSITES: dict[str, tuple[str, ...]] = {"selm": ("sigmoid", "optimism")}
"""Names that stand for several losses."""
ALIASES = {
    "dpo": "sigmoid", "dpo_norm": "sigmoid_norm", "ln_dpo": "sigmoid_norm", "dpo_length_normalized": "sigmoid_norm",
    "flex_dpo": "flex", "conservative_dpo": "cdpo", "robust_dpo": "robust", "slic": "hinge", "slic_hf": "hinge", "rso": "hinge",
    "exo": "exo_pair", "nca": "nca_pair", "bco": "bco_pair", "sppo": "sppo_hard", "aot_pair": "aot", "aot_paired": "aot",
    "apo": "apo_zero", "kto_pair": "kto", "caldpo": "cal_dpo", "dpop": "dpo_positive", "dpo_p": "dpo_positive", "smaug": "dpo_positive",
    "irpo": "rpo", "dpo_nll": "rpo", "bounded_dpo": "bdpo", "r_dpo": "length_margin", "length_dpo": "length_margin",
    "disco_pop": "discopop", "nll_token": "nll", "supervised": "sft",
}  # fmt: skip
"""Usual names → ours: of the papers, of earlier versions of trl (kto_pair, aot_pair) and of LLaMA-Factory's `pref_loss`."""
OTHERS = {
    "cpo": "contrastive preference optimization is no loss here, and chain of preference optimization is a method (extends: methods/cpo)",
    "rdpo": "it may mean robust DPO (`robust`) or R-DPO, which regularizes lengths (`length_margin`): name one of them",
    "wpo": "WPO weighs the pairs of another loss: set `use_weighting: true` beside it",
    "3d": "the 3D regularizers are settings beside any loss: `beta_rejected` and `sft_weight`",
    "dice": "DICE is a method, whose loss is `sigmoid` (extends: methods/dice)",
    **dict.fromkeys(("ppo", "grpo", "rloo", "reinforce", "gspo"), "it learns from rewards of single responses, not from preferences"),
}
"""What is said about names that are usual and are none of a loss here."""


def canonical(name: Any) -> Any:
    """Our name of a loss for one of its usual names, in any spelling; anything else as it is.

    >>> canonical("DPO"), canonical("Cal-DPO"), canonical("sigmoid"), canonical("own.module:Loss")
    ('sigmoid', 'cal_dpo', 'sigmoid', 'own.module:Loss')
    """
    if not isinstance(name, str) or ":" in name:
        return name
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    return plain if plain in known() else name


def canonical_types(value: Any) -> Any:
    """`loss_type` with our names: one name, or several."""
    return [canonical(name) for name in value] if isinstance(value, (list, tuple)) else canonical(value)


@functools.cache
def known() -> tuple[str, ...]:
    """The names of all losses, composites among them, read without importing torch."""
    return tuple(sorted(hyperparameters()))


@functools.cache
def hyperparameters() -> dict[str, frozenset[str]]:
    """By loss, composites among them, the names of the hyperparameters that it reads; without importing torch."""
    folder = Path(__file__).parent / "losses"
    found: dict[str, frozenset[str]] = {}
    for module in ("pairwise", "pointwise", "reference_free"):
        found |= {name: frozenset(names) for name, names in keyword_only_in(folder / f"{module}.py", "register").items()}
    return found | {name: frozenset().union(*(found[part] for part in parts)) for name, parts in COMPOSITES.items()}


def unknown(name: str, registered: Sequence[str] = ()) -> str:
    """The sentence about a name that is no loss's.

    Args:
        name: what the user wrote.
        registered: losses beside those that come along.
    """
    plain = name.strip().lower().replace("-", "_")
    if plain in OTHERS:
        return f"unknown loss '{name}': {OTHERS[plain]}"
    names = sorted({*known(), *registered})
    near = difflib.get_close_matches(plain, [*names, *ALIASES], n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown loss '{name}': {hint}The losses are {', '.join(names)}; one of your own is 'module:function'"


def check(value: Any, key: str) -> None:
    """See that `loss_type` names losses; those of the user's own are looked up where the training starts.

    Args:
        value: one name, or several.
        key: in errors.

    Raises:
        AlignError: a name that is no loss's; names the nearest.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise AlignError(f"{key} is {value!r}: expected the name of a loss, or a list of names")
    for name in names:
        if ":" not in name and canonical(name) not in known():
            raise AlignError(f"{key}: {unknown(name)}")
