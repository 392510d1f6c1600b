"""The recipe's sections.

extends:     what the recipe is written over: a method, or another recipe (see sources.py)
model:       which model, its precision, adapters, reference
data:        preference pairs or trees, for training and evaluation; what rounds replay
rollouts:    prompts, engine and sampling, for methods that sample
rounds:      how often, around any of the methods; and what DICE and SELM do with the samples
thoughts:    tree-of-thought search and its preferences (CPO)
code:        programs, their execution and its preferences
training:    any field of PreferenceConfig
measure:     suites to measure by at the start, after each round and at the end
resources:   processes and launchers
variants:    named sets of overrides, each a run of its own
seeds:       each variant is run with each seed
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import field_validator, model_validator

from align.errors import AlignError
from align.recipes.measures import Measure, Suite
from align.recipes.methods import Code, Given, MethodSection, Once, Rounds, Thoughts
from align.recipes.sections import Section
from align.trees import check_targets

Needed = TypeVar("Needed", bound=Section)


class Lora(Section):
    """A LoRA adapter; the reference is then the model with the adapter off."""

    r: int = 16
    """Rank."""
    alpha: int = 32
    """Scale, over r."""
    dropout: float = 0.05
    """Dropout on the adapter's input. Must be 0 where the run is to be exact; the policy's dropout is off by default."""
    target_modules: str | list[str] = "all-linear"
    """Which linear layers get one."""


class Model(Section):
    """The policy and its reference."""

    name_or_path: str
    """A model on the hub, a folder, or one trained here: `micro:sums`, `micro:careless`, `micro:style`, `micro:code`."""
    reference: str | None = None
    """The reference model; left out, the policy as it is at the start."""
    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    """Precision of the weights."""
    attn_implementation: str | None = None
    """transformers' attention for calls without a tree."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    chat_template: str | None = None
    """A Jinja file that takes the place of the tokenizer's chat template."""
    lora: Lora | None = None
    """Train an adapter instead of all weights."""
    quantization: Literal["nf4", "int8"] | None = None
    """Keep the frozen weights in 4 bits (QLoRA, arXiv 2305.14314) or 8 while an adapter is trained; needs bitsandbytes."""

    @model_validator(mode="after")
    def _trains_what_is_whole(self) -> Model:
        if self.quantization and self.lora is None:
            raise ValueError("quantization needs lora: quantized weights cannot be trained themselves")
        return self


class Data(Section):
    """Preference pairs or trees."""

    train: str | None = None
    """A name on the hub, a .jsonl, .json or .parquet file, or `micro:sums`, `micro:style`, pairs of a start model. Not needed
    where `thoughts` or `code` make the preferences."""
    train_split: str = "train"
    """Split of a hub data set."""
    eval: str | None = None
    """Like `train`, for evaluation during the training."""
    eval_split: str = "test"
    """Split of a hub data set."""
    columns: dict[str, str | None] = {}
    """The columns under the names that are read, `{prompt: q, chosen: good, rejected: bad}`, of all these sets and of what rounds replay;
    null: the sets have no such column, even where one bears the name. Left out, the known forms are told apart by their columns."""
    limit: int | None = None
    """Use the first so many records only."""
    merge_prompts: bool = False
    """Make one tree of all pairs with the same prompt."""
    max_rejected_share: float = 0.1
    """Stop if a larger share of the records cannot be used; they are kept aside in any case."""

    @field_validator("columns")
    @classmethod
    def _names_what_is_read(cls, columns: dict[str, str | None]) -> dict[str, str | None]:
        check_targets(columns)
        return columns


class Rollouts(Section):
    """How responses are sampled."""

    prompts: str
    """Prompts, preferences, with `thoughts` and `rounds.questions` questions, with `code` problems: a name on the hub, a .jsonl, .json or
    .parquet file, or a micro task."""
    prompts_split: str = "train"
    """Split of a hub data set."""
    prompts_column: str = "prompt"
    """The column with the prompt, text or messages."""
    limit: int | None = None
    """Use the first so many prompts only."""
    chat: bool | None = None
    """Put text prompts into the chat template as a user's message; left out, if the tokenizer has a template. With `thoughts`,
    `rounds.questions` and `code` prompts are texts to go on from, and stay so unless this is true."""
    system: str | None = None
    """System message in front of every conversation that has none; "" is an empty one, which many templates render in another
    way than none."""
    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """What samples."""
    url: str | None = None
    """Address of a running OpenAI-compatible server (engine `server`); left out, one is started for each round."""
    options: dict[str, Any] = {}
    """Passed on to `vllm.LLM`, `vllm serve` or `from_pretrained`: gpu_memory_utilization, speculative_config, ..."""
    samples: int = 16
    """K, responses a prompt; with `thoughts`, k thoughts a path."""
    temperature: float = 1.0
    """Of the sampling."""
    top_p: float = 1.0
    """Nucleus sampling."""
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    """0 is off."""
    max_new_tokens: int = 2048
    """Longest response."""
    stop: list[str] = []
    """Texts that end a response."""
    stop_token_ids: list[int | str] = []
    """Tokens that end a response beside the model's own end tokens: their ids, or their texts, such as "<|eot_id|>"."""
    batch: int = 64
    """Responses at a time (transformers; the others schedule by themselves)."""


class Resources(Section):
    """How many machines' parts do the work; none of it changes the outcome."""

    processes: int = 1
    """Processes that share sampling and scoring, each with its own GPUs."""
    tensor_parallel: int = 1
    """GPUs a copy of the model is spread over when sampling with vLLM; its layers over more of them, or over nodes with Ray, by
    `rollouts.options`: {pipeline_parallel_size: 2, distributed_executor_backend: ray}."""
    accelerate: str | None = None
    """Launch training with this configuration: a name below recipes/accelerate, or a file."""


_READ_BY_TRAINING = {
    "revision": "download the revision (hf download NAME --revision REVISION --local-dir FOLDER), and name the folder",
    "trust_remote_code": "take a model whose code is a part of transformers",
}
_SAYS = {"rollouts": ", which says how to sample"}


class Recipe(Section):
    """One training, or several variants of it."""

    description: str = ""
    """One sentence for `align recipes`."""
    model: Model
    data: Data = Data()
    rollouts: Rollouts | None = None
    rounds: Rounds | None = None
    thoughts: Thoughts | None = None
    code: Code | None = None
    training: dict[str, Any] = {}
    """Any field of PreferenceConfig: trl.DPOConfig's and those of the tree engine, the regularizers, the monitors."""
    measure: list[Suite] = []
    """Suites that the model is measured by at the start, after each round and at the end, `[gsm8k, {suite: humaneval, samples: 20}]`."""
    resources: Resources = Resources()
    variants: dict[str, dict[str, Any]] = {}
    """Named sets of dotted overrides, `{plain: {}, sft: {training.sft_weight: 1.0}}`."""
    seeds: list[int] = [42]
    """Run every variant with each of these seeds."""

    @field_validator("measure", mode="before")
    @classmethod
    def _is_a_list(cls, measure: Any) -> Any:
        if not isinstance(measure, (list, tuple, type(None))):
            raise ValueError("expected a list of suites, such as [gsm8k]")
        return measure or []

    @field_validator("seeds", mode="before")
    @classmethod
    def _are_numbers(cls, seeds: Any) -> Any:
        if not isinstance(seeds, (list, tuple)) or any(isinstance(seed, bool) for seed in seeds):
            raise ValueError("expected a list of whole numbers, such as [0, 1, 2]")
        return seeds

    @property
    def method(self) -> MethodSection:
        """The section that says how preferences are made."""
        return self.thoughts or self.code or self.rounds or Given()

    @property
    def loop(self) -> Rounds:
        """How rounds follow each other."""
        return self.rounds or Once()

    @property
    def seed(self) -> int:
        """The training's, which everything that is drawn is drawn by."""
        return int(self.training.get("seed", 42))

    def key_of(self, suite: Measure) -> str:
        """Where one of the suites of `measure` stands."""
        return next(f"measure.{place}" for place, mine in enumerate(self.measure) if mine is suite)

    def section(self, kind: type[Needed]) -> Needed:
        """A section that may be left out, where it is needed.

        Args:
            kind: of the section.

        Raises:
            AlignError: it is left out.
        """
        for key in type(self).model_fields:
            section = getattr(self, key)
            if isinstance(section, kind):
                return section
        key = kind.__name__.lower()
        raise AlignError(f"{self.method.key}: a recipe with {self.method.key} needs the section `{key}`{_SAYS.get(key, '')}")

    @property
    def engine_gpus(self) -> int:
        """GPUs that one sampling engine takes."""
        options = self.rollouts.options if self.rollouts else {}
        return self.resources.tensor_parallel * int(options.get("pipeline_parallel_size", 1))

    @model_validator(mode="after")
    def _has_preferences(self) -> Recipe:
        if self.thoughts and self.code:
            raise ValueError("thoughts and code: a recipe has one of them")
        self._check_use()
        if self.data.train is None and self.method.needs_data:
            raise ValueError(
                f"data.train is missing: preference pairs or trees, {self.method.needs_data} "
                "(`thoughts`, `code` and rounds without replay make their own)"
            )
        return self

    @model_validator(mode="after")
    def _measures_have_names(self) -> Recipe:
        labels = [suite.label for suite in self.measure]
        for place, label in enumerate(labels):
            if label in labels[:place]:
                raise ValueError(f"measure.{place}: there are results named '{label}' already: give it a `name` of its own")
        return self

    def _check_use(self) -> None:
        """Keys that another key makes useless are refused: what is written is what is done."""
        for key, reason in self.method.of_no_use.items():
            name, _, below = key.partition(".")
            section = getattr(self, name)
            if section and getattr(section, below) != type(section).model_fields[below].default:
                raise ValueError(f"{key} is of no use with `{self.method.key}`, {reason}")
        if self.method.makes_preferences or self.measure:
            for key, instead in _READ_BY_TRAINING.items():
                if getattr(self.model, key):
                    raise ValueError(
                        f"model.{key} is read by the training alone, and this recipe samples, scores or measures as well: {instead}"
                    )
        strategy = self.training.get("eval_strategy")
        if strategy not in (None, False, "no") and self.data.eval is None:
            raise ValueError(f"training.eval_strategy is '{strategy}', but there is no data.eval to evaluate on")
