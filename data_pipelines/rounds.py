"""Rounds around any method: a method says how preferences are made, a run trains on them, measures, and begins the next round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from align import recipes
from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.methods import LOOP
from align.recipes.schema import Rollouts
from align.runs import External, Input, Output, Stage
from data_pipelines.thought_trees.settings import HeldOut

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
        before: the reference that it was trained against, so that the two make its implicit reward: the model before it, or with
            `rounds.reference: start` the one that the run starts from; of the first round the run's reference.
    """

    recipe: Recipe
    number: int
    prefix: str
    policy: Input
    before: Input

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe.seed

    @property
    def part(self) -> tuple[int, int]:
        """Which prompts the round asks, as (number from 0, of how many parts); (0, 1): all."""
        return self.recipe.loop.part(self.number)


@dataclass(frozen=True)
class Start:
    """What a run starts from where its first stages make it.

    Attributes:
        stages: which these are; none where everything is there already.
        kinds: names that stand for what they make, such as "micro:sums".
    """

    stages: tuple[Stage, ...] = ()
    kinds: tuple[str, ...] = ()

    def source(self, name: str | None, made: str) -> Input:
        """What a name stands for.

        Args:
            name: in a recipe, None where it is left out.
            made: the file or folder that the first stage makes in its place.
        """
        is_made = self.stages and (name is None or name in self.kinds)
        return Output(self.stages[0].name, made) if is_made else External(str(name))


@dataclass(frozen=True)
class Lengths:
    """What a recipe does not say of its data: prompts where `rollouts.limit` is left out, and mean tokens."""

    prompts: int
    prompt_tokens: int
    response_tokens: int

    def prompts_of_round(self, recipe: Recipe) -> float:
        """Prompts that one round asks: all, or its part of them."""
        return (recipe.section(Rollouts).limit or self.prompts) / recipe.loop.part(1)[1]


@dataclass(frozen=True)
class Effort:
    """The tokens of one round before its training.

    Attributes:
        sampled: by stage, those that are drawn.
        read: by stage, those that models read, summed over the models.
        leaves: responses of a tree that is trained on.
        replayed: the share of the trees that do not come from the round's prompts.
    """

    sampled: Mapping[str, float] = field(default_factory=dict)
    read: Mapping[str, float] = field(default_factory=dict)
    leaves: int = 2
    replayed: float = 0.0


class Method(Protocol):
    """How preferences are made.

    Attributes:
        start: what the run starts from.
        setup: stages after those, once for all rounds, before anything is measured.
        policy: the model that the run starts from.
        reference: the model that it was tuned from, or the policy itself.
    """

    start: Start
    setup: list[Stage]
    policy: Input
    reference: Input

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """The stages of a round before its training, and the preferences that they leave."""

    def check(self, recipe: Recipe) -> None:
        """See that a round's settings fit each other.

        Raises:
            AlignError: they do not.
        """

    def data_sets(self, recipe: Recipe) -> list[tuple[str, str]]:
        """Key and name of the data sets that the method reads besides prompts and preferences."""

    def check_parts(self, recipe: Recipe) -> None:
        """See that what the recipe names can be had: parts by name, the first records, programs that are needed.

        Raises:
            AlignError: what cannot, and under which key.
        """

    def searched(self, recipe: Recipe, name: str, questions: HeldOut, source: Input) -> list[Stage]:
        """The stages that answer questions by the policy's search, to be compared with its greedy answers; none without a search.

        Args:
            recipe: without variants.
            name: what the names of the stages begin with.
            questions: which they are.
            source: where they stand.
        """

    def effort(self, recipe: Recipe, lengths: Lengths) -> Effort:
        """The tokens of a round; `recipe` is the round's."""


class PreferenceData:
    """Preferences that are there already (DPO); see `Method`."""

    def __init__(self, recipe: Recipe) -> None:
        self.start, self.setup = Start(), list[Stage]()
        self.policy: Input = External(recipe.model.name_or_path)
        self.reference: Input = External(recipe.model.reference) if recipe.model.reference else self.policy
        self._data = External(str(recipe.data.train))

    def preferences(self, round: Round) -> tuple[list[Stage], Input]:
        """No stage, and the data."""
        return [], self._data

    def check(self, recipe: Recipe) -> None:
        """There is nothing to check."""

    def data_sets(self, recipe: Recipe) -> list[tuple[str, str]]:
        """None of its own."""
        return []

    def check_parts(self, recipe: Recipe) -> None:
        """There are none."""

    def searched(self, recipe: Recipe, name: str, questions: HeldOut, source: Input) -> list[Stage]:
        """There is no search."""
        return []

    def effort(self, recipe: Recipe, lengths: Lengths) -> Effort:
        """Nothing comes before the training."""
        return Effort()


def stages_of(
    recipe: Recipe, method: Method, training: Callable[[Recipe], Stage], measure: Callable[[str, Input], list[Stage]]
) -> list[Stage]:
    """The stages of a run, in order.

    Args:
        recipe: without variants.
        method: the recipe's.
        training: a round's recipe → how its model is trained; inputs and name are filled in here.
        measure: (prefix of stages' names, model) → the stages that measure a model.

    Raises:
        AlignError: settings that a round needs are missing, or contradict each other.
    """
    loop = recipe.loop
    stages = [*method.start.stages, *method.setup, *measure("start/", method.policy)]
    policy, before = method.policy, method.reference
    if loop.count < 1:
        raise AlignError(f"rounds.count is {loop.count}: expected 1 or more")
    for number in range(1, loop.count + 1):
        own = recipe_of_round(recipe, number)
        method.check(own)
        round = Round(own, number, loop.prefix(number), policy, before)
        making, data = method.preferences(round)
        inputs = {"model": round.policy, "data": data}
        if not making and recipe.model.reference:
            inputs["reference"] = method.reference
        if making and loop.reference == "start" and round.policy != method.policy:
            inputs["reference"] = method.policy
        if recipe.data.eval is not None:
            inputs["eval"] = External(recipe.data.eval)
        train = replace(training(own), name=f"{round.prefix}train", inputs=inputs)
        policy, before = Output(train.name, "model"), inputs.get("reference", policy)
        stages += [*making, train, *measure(round.prefix, policy)]
    return stages


def recipe_of_round(recipe: Recipe, number: int) -> Recipe:
    """The recipe with the overrides of one round.

    Raises:
        AlignError: a key cannot differ by round, or does not fit.
    """
    rounds = recipe.loop
    if len(rounds.overrides) > rounds.count:
        raise AlignError(f"rounds.overrides has {len(rounds.overrides)} entries for {rounds.count} rounds")
    changes = rounds.overrides[number - 1] if number <= len(rounds.overrides) else {}
    where = f"rounds.overrides[{number - 1}]"
    for key in recipes.dotted(changes):
        _check_differs(recipe, key, where)
    return recipes.changed(recipe, changes, where) if changes else recipe


FIXED = ("rollouts.prompts", "rounds.questions", "training.output_dir")
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
    if recipe.method.asks_the_same_in_all_rounds and key in CHOSEN_ONCE:
        raise AlignError(f"{where}: '{key}' cannot differ by round: what is asked is chosen once for all rounds")
