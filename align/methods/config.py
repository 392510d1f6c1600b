"""Configs of the methods' trainers: every field of `PreferenceConfig`, and how preferences are made.

A method's defaults, of the training as well, are those of its file below `recipes/methods/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from inspect import get_annotations
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform, get_type_hints

from align import recipes
from align.trainers import PreferenceConfig

Config = TypeVar("Config", bound="RoundsConfig")
_NOT_OF_ROUNDS = frozenset({
    "hub_token", "push_to_hub", "push_to_hub_token", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_revision", "hub_always_push",
    "model_init_kwargs", "output_dir",
})  # fmt: skip
"""Fields that are no part of how a round's model is trained."""


def _of(key: str, help: str) -> dict[str, str]:
    """Metadata of a field that stands for a recipe's key; None leaves it to the recipe's own default."""
    return {"help": help, "recipe": key}


@dataclass_transform(field_specifiers=(field,))
def of_method(name: str) -> Callable[[type[Config]], type[Config]]:
    """A decorator: the class becomes a dataclass whose defaults are the values of `recipes/methods/NAME.yaml`."""

    def decorate(config: type[Config]) -> type[Config]:
        content = dict(_flat(recipes.read(recipes.RECIPES / recipes.METHODS / f"{name}.yaml")))
        inherited = {each.name: each.metadata for each in fields(config)}
        own = {each: getattr(config, each).metadata for each in get_annotations(config)}
        hints = get_type_hints(config)
        for target, metadata in {**inherited, **own}.items():
            key = metadata.get("recipe", f"training.{target}")
            if key in content:
                config.__annotations__[target] = hints[target]
                setattr(config, target, _with_default(content[key], metadata))
        config.method = name
        return dataclass(config)

    return decorate


def _with_default(value: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(value, list | dict):
        return field(default_factory=lambda: type(value)(value), metadata=metadata)
    return field(default=value, metadata=metadata)


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        yield f"{above}{key}", value


@dataclass
class RoundsConfig(PreferenceConfig):
    """Settings of `RoundsTrainer`: every field of `PreferenceConfig`, and the following. What is None has the recipes' default.

    `output_dir` is the run's folder. `model_init_kwargs` may have dtype, attn_implementation, revision, trust_remote_code and
    quantization; the weights are in bfloat16 unless it says otherwise.

    Raises:
        ValueError: as `PreferenceConfig`.
    """

    method: ClassVar[str | None] = None
    """The file below `recipes/methods/` whose values are the defaults."""

    rounds: int | None = field(default=None, metadata=_of("rounds.count", "How many rounds."))
    round_prompts: Literal["all", "split"] | None = field(
        default=None, metadata=_of("rounds.prompts", "Every round asks all prompts, or a part of its own.")
    )
    round_reference: Literal["round", "start"] | None = field(
        default=None, metadata=_of("rounds.reference", "The reference of a round's training: the model it begins with, or the run's start.")
    )
    round_overrides: list[dict[str, Any]] | None = field(
        default=None,
        metadata=_of("rounds.overrides", "By round, what differs in it: keys of a recipe, [{}, {'training.learning_rate': 3e-7}]."),
    )
    num_generations: int | None = field(
        default=None, metadata=_of("rollouts.samples", "K, responses per prompt; of a search, k thoughts per path.")
    )
    temperature: float | None = field(default=None, metadata=_of("rollouts.temperature", "Of the sampling."))
    top_p: float | None = field(default=None, metadata=_of("rollouts.top_p", "Nucleus sampling."))
    top_k: int | None = field(default=None, metadata=_of("rollouts.top_k", "0 is off."))
    min_p: float | None = field(default=None, metadata=_of("rollouts.min_p", "0 is off."))
    max_completion_length: int | None = field(default=None, metadata=_of("rollouts.max_new_tokens", "Longest response, in tokens."))
    stop: list[str] | None = field(default=None, metadata=_of("rollouts.stop", "Texts that end a response."))
    generation_batch_size: int | None = field(default=None, metadata=_of("rollouts.batch", "Responses at a time (transformers)."))
    use_vllm: bool = field(default=False, metadata={"help": "Sample with vLLM, in processes of its own."})
    vllm_server_base_url: str | None = field(
        default=None, metadata=_of("rollouts.url", "Sample from a running OpenAI-compatible server instead.")
    )
    engine_kwargs: dict[str, Any] | None = field(
        default=None, metadata=_of("rollouts.options", "Passed on to `vllm.LLM`, `vllm serve` or `from_pretrained`.")
    )
    chat: bool | None = field(
        default=None, metadata=_of("rollouts.chat", "Put text prompts into the chat template; left out, as the recipe's key says.")
    )
    system_prompt: str | None = field(default=None, metadata=_of("rollouts.system", "System message of conversations that have none."))
    max_prompts: int | None = field(default=None, metadata=_of("rollouts.limit", "Use the first so many prompts only."))
    processes: int | None = field(
        default=None,
        metadata=_of("resources.processes", "Processes that share sampling and scoring; left out, as many as the group that trains has."),
    )
    recipe: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Any other keys of a recipe, dotted: {'rounds.filter.min_responses': 4}."}
    )

    def __post_init__(self) -> None:
        own = fields(PreferenceConfig)
        plain = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in own}
        given = {name: getattr(self, name) for name in plain if name not in _NOT_OF_ROUNDS}
        self._training = {name: value for name, value in given.items() if value != plain[name]}
        super().__post_init__()

    def sections(self) -> dict[str, Any]:
        """The recipe's sections that these settings make, as plain data; without `model` and `data`."""
        content = recipes.read(recipes.RECIPES / recipes.METHODS / f"{self.method}.yaml") if self.method else {}
        sections: dict[str, Any] = {**content, "training": {**self._training, "output_dir": self.output_dir}}
        settings = {each.metadata["recipe"]: getattr(self, each.name) for each in fields(self) if "recipe" in each.metadata}
        if self.use_vllm:
            settings["rollouts.engine"] = "vllm"
        if self.vllm_server_base_url:
            settings["rollouts.engine"] = "server"
        if "rounds" not in content and self.method:
            of_rounds = {
                key for key, value in settings.items() if key.startswith("rounds.") and key != "rounds.count" and value is not None
            }
            settings["rounds.count"] = (self.rounds or 1) if of_rounds or self.rounds not in (None, 1) else None
        changes = {key: value for key, value in settings.items() if value is not None} | self.recipe
        return recipes.with_changes(sections, changes, type(self).__name__)

    def written(self) -> list[str]:
        """The recipe's keys whose values are not the class's defaults."""
        found = list(recipes.dotted(self.recipe))
        for each in fields(self):
            key = each.metadata.get("recipe", f"training.{each.name}" if each.name in self._training else None)
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if key is not None and getattr(self, each.name) not in (default, None):
                found.append(key)
        return found


@dataclass
class RewardRoundsConfig(RoundsConfig):
    """Settings of rounds that rank whole responses by rewards."""

    pairing: str | None = field(
        default=None, metadata=_of("rounds.pairing", "Which responses to a prompt become pairs; `align list pairings`.")
    )
    pairs_per_prompt: int | None = field(default=None, metadata=_of("rounds.pairs", "So many pairs per prompt at most, drawn at random."))
    length_shaping: float | Literal["fit"] | None = field(
        default=None,
        metadata=_of(
            "rounds.length_alpha", "α of score − α·|y|: a number, or fitted so that chosen and rejected are equally long on average."
        ),
    )
    length_unit: Literal["characters", "tokens"] | None = field(default=None, metadata=_of("rounds.length_unit", "What |y| counts."))
    replay: float | None = field(default=None, metadata=_of("rounds.replay", "γ, the share of offline preferences in what is trained on."))
    max_tokens_per_row: int | None = field(default=None, metadata=_of("rounds.max_tokens_per_row", "Tokens in a packed row when scoring."))


@of_method("dice")
class DICEConfig(RewardRoundsConfig):
    """Settings of `DICETrainer` (arXiv 2406.09760)."""


@of_method("selm")
class SELMConfig(RewardRoundsConfig):
    """Settings of `SELMTrainer` (arXiv 2405.19332)."""


@of_method("self-rewarding")
class SelfRewardingConfig(RewardRoundsConfig):
    """Settings of `SelfRewardingTrainer` (arXiv 2401.10020)."""


@of_method("irpo")
class IterativeReasoningConfig(RewardRoundsConfig):
    """Settings of `IterativeReasoningTrainer` (IRPO, arXiv 2404.19733)."""

    task: str | None = field(
        default=None, metadata=_of("rounds.questions", "The task that the questions are of: gsm8k, math, ..., or a YAML file of your own.")
    )


@of_method("online-dpo")
class OnlineDPOConfig(RewardRoundsConfig):
    """Settings of `OnlineDPOTrainer` (OAIF, arXiv 2402.04792)."""


@dataclass
class ThoughtsConfig(RoundsConfig):
    """Settings of rounds that search trees of thoughts."""

    task: str | None = field(
        default=None, metadata=_of("thoughts.task", "The task that is searched: gsm8k, bamboogle, ..., or a YAML file of your own.")
    )
    keep: int | None = field(default=None, metadata=_of("thoughts.keep", "n, the best paths that go on at each step."))
    keep_at_most: int | None = field(default=None, metadata=_of("thoughts.keep_at_most", "With those that tie with the n-th, at most."))
    min_value: float | None = field(default=None, metadata=_of("thoughts.min_value", "A path of a lower value ends."))
    votes: int | None = field(default=None, metadata=_of("thoughts.judge.votes", "m, judgements of each path."))
    judge_temperature: float | None = field(default=None, metadata=_of("thoughts.judge.temperature", "Of the judgements."))


@of_method("cpo")
class ChainOfPreferenceConfig(ThoughtsConfig):
    """Settings of `ChainOfPreferenceTrainer` (CPO, arXiv 2406.09136)."""


@of_method("step-dpo")
class StepDPOConfig(ThoughtsConfig):
    """Settings of `StepDPOTrainer` (arXiv 2406.18629)."""


@of_method("code")
class CodePreferenceConfig(RoundsConfig):
    """Settings of `CodePreferenceTrainer` (arXiv 2410.18585)."""

    pairing: str | None = field(default=None, metadata=_of("code.pairing", "Which pairs come first: random, closest, hardest, focus."))
    pairs_per_problem: int | None = field(default=None, metadata=_of("code.pairs", "So many pairs per problem at most."))
    min_gap: float | None = field(
        default=None, metadata=_of("code.min_gap", "Rank by the share of tests passed: a pair differs by so much at least.")
    )
    execution_seconds: float | None = field(default=None, metadata=_of("code.sandbox.seconds", "CPU time of a program, for all its tests."))
    isolation: Literal["require-strong", "best-available", "limits-only"] | None = field(
        default=None, metadata=_of("code.sandbox.isolation", "How programs are kept from the host.")
    )
    packages: list[str] | None = field(
        default=None, metadata=_of("code.sandbox.packages", "Installed packages that programs and tests may import.")
    )
