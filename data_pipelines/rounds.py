"""Rounds around any method: a method says how preferences are made, a run trains on them, measures, and begins the next round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from align import recipes
from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.methods import Rounds
from align.runs import External, Input, Output, Stage

LOOP = ("count", "prompts", "reference", "overrides")
"""Keys of `rounds` that say how rounds follow each other; the others are of the method that ranks responses by rewards."""
DIFFER = ("training", "rollouts", "rounds", "thoughts", "code")
"""Sections whose keys may differ by round."""


@dataclass(frozen=True)
class Round:
    """One round of a run; the only one where a recipe has no `rounds`.

    Attributes:
        recipe: with the overrides of this round.
        number: from 1.
        prefix: of the names of the round's stages: "round-2/", or "" where a recipe has no `rounds`.
        policy: the model at the start of the round.
        before: the model before it; of the first round the run's reference.
    """

    recipe: Recipe
    number: int
    prefix: str
    policy: Input
    before: Input

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.recipe.training.get("seed", 42))

    @property
    def part(self) -> tuple[int, int]:
        """Which prompts the round asks, as (number from 0, of how many parts); (0, 1): all."""
        rounds = self.recipe.rounds
        return (self.number - 1, rounds.count) if rounds is not None and rounds.prompts == "split" else (0, 1)


class Method(Protocol):
    """How preferences are made.

    Attributes:
        start: stages that make what the run starts from.
        policy: the model that the run starts from.
        reference: the model that it was tuned from, or the policy itself.
    """

    start: list[Stage]
    policy: Input
    reference: Input

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """The stages of a round before its training, and the preferences that they leave."""

    def check(self, recipe: Recipe) -> None:
        """See that a round's settings fit each other.

        Raises:
            AlignError: they do not.
        """


class PreferenceData:
    """Preferences that are there already (DPO); see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        self.start: list[Stage] = []
        self.policy: Input = External(recipe.model.name_or_path)
        self.reference: Input = External(recipe.model.reference) if recipe.model.reference else self.policy
        self._data = External(str(recipe.data.train))

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """No stage, and the data."""
        return [], self._data

    def check(self, recipe: Recipe) -> None:
        """There is nothing to check."""


def stages_of(recipe: Recipe, method: Method, training: Stage, measure: Callable[[str, Input], list[Stage]]) -> list[Stage]:
    """The stages of a run, in order.

    Args:
        recipe: without variants.
        method: the recipe's.
        training: how any model is trained; inputs and name are filled in here.
        measure: (prefix of stages' names, model) → the stages that measure a model.

    Raises:
        AlignError: settings that a round needs are missing, or contradict each other.
    """
    rounds = recipe.rounds
    stages = [*method.start, *measure("start/", method.policy)]
    models = [method.reference, method.policy]
    if rounds is not None and rounds.count < 1:
        raise AlignError(f"rounds.count is {rounds.count}: expected 1 or more")
    for number in range(1, (rounds.count if rounds is not None else 1) + 1):
        own = recipe_of_round(recipe, number)
        method.check(own)
        round = Round(own, number, f"round-{number}/" if rounds is not None else "", models[-1], models[-2])
        making, data = method.preferences(round)
        inputs = {"model": round.policy, "data": data}
        if not making and recipe.model.reference:
            inputs["reference"] = method.reference
        if making and rounds is not None and rounds.reference == "start" and round.policy != method.policy:
            inputs["reference"] = method.policy
        if recipe.data.eval is not None:
            inputs["eval"] = External(recipe.data.eval)
        train = replace(training, name=f"{round.prefix}train", inputs=inputs, settings=_settings_of_round(training, recipe, own))
        models.append(Output(train.name, "model"))
        stages += [*making, train, *measure(round.prefix, models[-1])]
    return stages


def recipe_of_round(recipe: Recipe, number: int) -> Recipe:
    """The recipe with the overrides of one round.

    Raises:
        AlignError: a key cannot differ by round, or does not fit.
    """
    rounds = recipe.rounds
    if rounds is None:
        return recipe
    if len(rounds.overrides) > rounds.count:
        raise AlignError(f"rounds.overrides has {len(rounds.overrides)} entries for {rounds.count} rounds")
    changes = rounds.overrides[number - 1] if number <= len(rounds.overrides) else {}
    where = f"rounds.overrides[{number - 1}]"
    for key in changes:
        _check_differs(recipe, key, where)
    return recipes.changed(recipe, changes, where) if changes else recipe


FIXED = ("rollouts.prompts", "rounds.questions")
"""Keys that are the same in all rounds, besides those of `LOOP`."""
CHOSEN_ONCE = (
    "rollouts.prompts_split", "rollouts.prompts_column", "rollouts.limit", "rollouts.chat", "rollouts.system", "code.format",
    "code.tests_from", "code.check_solutions", "code.decontaminate",
)  # fmt: skip
"""Keys that cannot differ where the first round chooses, for all rounds, what is asked."""


def _check_differs(recipe: Recipe, key: str, where: str) -> None:
    """See that a key may differ by round.

    Raises:
        AlignError: it may not.
    """
    section, _, rest = key.partition(".")
    if section not in DIFFER or (section == "rounds" and rest in LOOP) or key in FIXED:
        expected = f"{', '.join(DIFFER[:-1])} or {DIFFER[-1]}"
        raise AlignError(f"{where}: '{key}' cannot differ by round: expected keys of {expected}, as training.beta")
    asks_once = recipe.code is not None or (recipe.ranks_by_rewards and recipe.task_of_questions is not None)
    if asks_once and key in CHOSEN_ONCE:
        raise AlignError(f"{where}: '{key}' cannot differ by round: what is asked is chosen once for all rounds")


def check_only_loop(rounds: Rounds | None, method: str) -> None:
    """See that a recipe whose method makes preferences itself sets nothing of `rounds` but how they follow each other.

    Raises:
        AlignError: it sets another key.
    """
    given = rounds.model_dump() if rounds is not None else {}
    for name, value in Rounds().model_dump().items():
        if name not in LOOP and name in given and given[name] != value:
            expected = f"{', '.join(LOOP[:-1])} or {LOOP[-1]}"
            raise AlignError(f"rounds.{name} is of no use with `{method}`, which has pairs of its own: expected {expected}")


def _settings_of_round(training: Stage, recipe: Recipe, own: Recipe) -> Mapping[str, Any]:
    """The training's settings with what a round's overrides change."""
    changed = {key: value for key, value in own.training.items() if key not in recipe.training or recipe.training[key] != value}
    return {**training.settings, "training": {**training.settings["training"], **changed}}
