"""Keys of a recipe that nothing of its runs depends on: what is written is what is done, so they are refused."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from pydantic.fields import FieldInfo

from align import loss_names, plans
from align.errors import AlignError
from align.recipes import Recipe, find, load, parse, read_yaml
from align.recipes.sections import Section
from data_pipelines.rounds import recipe_of_round

Place = tuple[str | int, ...]
NOT_PLANNED: tuple[Place, ...] = (("description",), ("seeds",), ("training", "seed"))
"""Keys that tell runs apart."""
PLAIN: tuple[Place, ...] = (("training",), ("variants",), ("rounds", "overrides"))
"""Sections whose keys have no types of their own."""


def check_written(source: str, overrides: Sequence[str] = ()) -> None:
    """See that the keys which a recipe's file writes are of use in it, and those of the overrides with these.

    Not those that it extends, nor those of the file that an override makes useless: nobody wrote them for this run.

    Args:
        source: as of `recipes.load`.
        overrides: as of `recipes.load`.

    Raises:
        AlignError: the first key of no use; the recipe is refused.
    """
    try:
        alone = load(source)
    except AlignError:  # it lacks what the overrides give
        if not overrides:
            raise
    else:
        check_used(alone, list(_places(read_yaml(find(source)))))
    if overrides:
        check_used(load(source, overrides), [place_of(override.partition("=")[0]) for override in overrides])


def place_of(key: str) -> Place:
    """The place of a dotted key.

    >>> place_of("measure.0.problems")
    ('measure', 0, 'problems')
    """
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))


def check_used(recipe: Recipe, written: Sequence[Place] = ((),)) -> None:
    """See that keys of a recipe change something of its runs: the runs are planned again without each in turn.

    A key that is left out by default ("as the suite says") may say what is done anyway. It is of no use only if no other value of it
    would change anything either.

    Args:
        recipe: all of it, with its variants.
        written: which keys are looked at, by themselves or by a section above them; all.

    Raises:
        AlignError: the first key of no use, with what its docstring says; or the runs cannot be planned.
    """
    runs = plans.runs_of(recipe)
    raw = recipe.model_dump()
    idle = _idle_settings(runs)
    for given in _given(recipe, ()):
        if not any(all(a == b for a, b in zip(given.place, place, strict=False)) for place in written):
            continue
        key = ".".join(map(str, given.place))
        setting = ".".join(map(str, given.place[-2:])) if given.place[0] == "training" else str(given.place[-1])
        if setting in idle:
            raise AlignError(f"{key} is of no use in this recipe: {idle[setting]}")
        without, *others = given.others(raw)
        if _plans(runs, without) and all(_plans(runs, other, or_none=True) for other in others):
            about = f" ({given.place[-1]}: {' '.join(given.about.split())})" if given.about else ""
            raise AlignError(f"{key} is of no use in this recipe, whose runs are the same without it: leave it out{about}")


NEEDED = {
    "sft_normalization": "sft_weight", "beta_rejected_end": "beta_rejected", "beta_rejected_schedule": "beta_rejected",
    "wpo_max_weight": "use_weighting", "ref_model_mixup_alpha": "sync_ref_model", "ref_model_sync_steps": "sync_ref_model",
    "liger_kernel_config": "use_liger_kernel",
}  # fmt: skip
"""Settings of a training → the one without which they are of no use."""


def _idle_settings(runs: Sequence[plans.Run]) -> dict[str, str]:
    """Settings, as `training.beta`, that none of the trainings of some runs reads, with the reason."""
    every = [recipe_of_round(run.recipe, n).training for run in runs for n in range(1, run.recipe.loop.count + 1)]
    found = [_idle(training) for training in every]
    reasons = {key: reason for idle in found for key, reason in idle.items()}
    read = {key for idle, training in zip(found, every, strict=True) for key in training if key not in idle}
    return {f"training.{key}": reason for key, reason in reasons.items() if key not in read}


def _idle(training: Mapping[str, Any]) -> dict[str, str]:
    idle = {key: f"it is read with training.{other}" for key, other in NEEDED.items() if training.get(key) and not training.get(other)}
    if training.get("monitor_3d") is False:
        idle |= {key: "training.monitor_3d is false" for key in ("monitor_prompts", "monitor_max_new_tokens") if key in training}
    if training.get("f_alpha_divergence_coef") and training.get("f_divergence_type") != "alpha_divergence":
        idle["f_alpha_divergence_coef"] = "it is read with training.f_divergence_type: alpha_divergence"
    chosen = training.get("loss_type") or ["sigmoid"]
    names = [chosen] if isinstance(chosen, str) else chosen
    if any(":" in name for name in names):  # a loss of the user's own may read any
        return idle
    by_loss = loss_names.hyperparameters()
    read = {key for name in names for key in by_loss[name]} | {"beta", "beta_rejected"}  # these two work with any loss
    for key in {key for keys in by_loss.values() for key in keys} - read:
        if training.get(key):
            of = ", ".join(sorted(name for name, keys in by_loss.items() if key in keys))
            idle[key] = f"training.loss_type is {', '.join(names)}, and {key} is read by {of}"
    return idle


def _places(content: Any, above: Place = ()) -> Iterator[Place]:
    """The places of what a recipe's file writes."""
    if not isinstance(content, dict):
        yield above
        return
    for key, value in content.items():
        yield from _places(value, (*above, key))


def _plans(runs: list[plans.Run], raw: dict[str, Any], or_none: bool = False) -> bool:
    """Whether a recipe plans these runs; of one that is refused, `or_none`."""
    try:
        others = plans.each_run(parse(raw, "without"))
        return all(a is not None and b is not None and _plan(a) == _plan(b) for a, b in zip_longest(runs, others))
    except AlignError:
        return or_none


def _plan(run: plans.Run) -> tuple[Any, ...]:
    return run.folder.path, run.stages


@dataclass(frozen=True)
class _Given:
    """A key whose value is not the default.

    Attributes:
        place: the keys and indices that lead to it.
        about: what its docstring says.
        instead: other values that show whether it is of use at all.
    """

    place: Place
    about: str = ""
    instead: tuple[Any, ...] = ()

    def others(self, raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The recipe as plain data, without the key and with each other value."""
        *above, last = self.place
        for value in (_LEFT_OUT, *self.instead):
            changed = copy.deepcopy(raw)
            section: Any = changed
            for part in above:
                section = section[part]
            if value is _LEFT_OUT:
                del section[last]
            else:
                section[last] = value
            yield changed


_LEFT_OUT = object()


def _given(section: Section, above: Place) -> Iterator[_Given]:
    """The keys of a section and of those below it; a section that may be left out before its keys."""
    for name, field in type(section).model_fields.items():
        place, value, about = (*above, name), getattr(section, name), field.description or ""
        if place in NOT_PLANNED:
            continue
        if place in PLAIN:
            yield from map(_Given, _plain_keys(value, place))
        elif isinstance(value, Section):
            if field.default is None:
                yield _Given(place, about)
            yield from _given(value, place)
        elif isinstance(value, list) and value and all(isinstance(entry, Section) for entry in value):
            for number, entry in enumerate(value):
                yield from _given(entry, (*place, number))
        elif not field.is_required() and value != field.get_default(call_default_factory=True):
            yield _Given(place, about, _other_values(field, value) if field.default is None else ())


def _plain_keys(value: Any, place: Place) -> Iterator[Place]:
    """The keys of `training`, and those of each variant and of each round's overrides."""
    if place == ("training",):
        yield from ((*place, key) for key in value if (*place, key) not in NOT_PLANNED)
        return
    for name, changes in value.items() if isinstance(value, dict) else enumerate(value):
        yield from ((*place, name, key) for key in changes)


def _other_values(field: FieldInfo, value: Any) -> tuple[Any, ...]:
    """Values that a key could have instead."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, (int, float)):
        return (value + 1,)
    choices = [c for kind in typing.get_args(field.annotation) if typing.get_origin(kind) is typing.Literal for c in typing.get_args(kind)]
    return tuple(choice for choice in choices if choice != value) or ((f"{value} other",) if isinstance(value, str) else ())
