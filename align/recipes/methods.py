"""The recipe's sections that choose a method, `rounds`, `thoughts`, `code`: each answers what depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from align.recipes.sections import Section


class MethodSection(Section):
    """A section that says how preferences are made; without one they are there already.

    Attributes:
        key: the section's name in a recipe; of preferences that are there, "data".
        of_no_use: keys of other sections that the method has no use for, with the reason.
        chat_form: of the forms of questions, how they are asked in the chat template.
        share_is_of_the_limited: whether `data.max_rejected_share` is of the first `rollouts.limit` records, and not of a whole set.
    """

    key: ClassVar[str] = "data"
    of_no_use: ClassVar[Mapping[str, str]] = {}
    chat_form: ClassVar[str] = "chat"
    share_is_of_the_limited: ClassVar[bool] = False

    @property
    def makes_preferences(self) -> bool:
        """Whether the run makes the preferences that it trains on; else they are `data.train` itself."""
        return True

    @property
    def needs_data(self) -> str:
        """What preferences must be given as `data.train` for; "" where none are needed."""
        return ""

    @property
    def task_of_questions(self) -> str | None:
        """The task whose questions are searched, or answered and graded."""
        return None

    @property
    def asks_prompts(self) -> bool:
        """Whether `rollouts.prompts` are prompts as they are, and not questions of a task or problems."""
        return False

    @property
    def goes_on_from_texts(self) -> bool:
        """Whether prompts are texts to go on from unless `rollouts.chat` is true; else they go into the template if there is one."""
        return False

    @property
    def asks_the_same_in_all_rounds(self) -> bool:
        """Whether the first round chooses, for all rounds, what is asked."""
        return False


class Given(MethodSection):
    """Preferences that are there already."""

    @property
    def makes_preferences(self) -> bool:
        """No: they are `data.train` itself."""
        return False

    @property
    def needs_data(self) -> str:
        """They are the data."""
        return "which the training is on"


class Filter(Section):
    """Which samples may become preferences; defaults as DICE's released code."""

    drop_truncated: bool = True
    """Drop responses that ended for length."""
    min_characters: int = 4
    """Shortest response, without white space around it."""
    max_characters: int = 6699
    """Longest response, without white space around it."""
    max_tokens: int = 4095
    """Longest response with its prompt."""
    min_responses: int = 8
    """A prompt with fewer valid responses is left out."""


class ScorerChoice(Section):
    """One scorer."""

    name: str
    """implicit, reward_model, llm, answer, length, function, or `module:class` of your own."""
    weight: float = 1.0
    """In the sum, where there are several."""
    options: dict[str, Any] = {}
    """The scorer's own."""


class Rounds(MethodSection):
    """Rounds of sampling, scoring, pairing and training (DICE, arXiv 2406.09760; SELM, arXiv 2405.19332). With `thoughts` or `code` the
    rounds go around these, and only `count`, `prompts`, `reference` and `overrides` are of use."""

    count: int = 2
    """R, how many rounds."""
    prompts: Literal["all", "split"] = "all"
    """Every round samples to all prompts, or to a part of its own."""
    reference: Literal["round", "start"] = "round"
    """The reference of each round's training: the model that the round begins with (DICE, IRPO), or in all rounds the one that the run
    begins with (online DPO, arXiv 2402.04792)."""
    questions: str | None = None
    """The task that `rollouts.prompts` holds questions of (gsm8k, math, ..., or a YAML file of your own): they are asked as the task
    says, and the scorer `answer` gives 1 to a response that states the gold answer, else 0 (IRPO, arXiv 2404.19733)."""
    filter: Filter = Filter()
    """Which samples are left out."""
    candidates: Literal["samples", "samples_and_data", "data"] = "samples"
    """What is ranked: the policy's samples, or these and the responses that `data.train` has to the same prompt (SELM). `data`: nothing
    is sampled, the round trains on the pairs of `data.train` as they are."""
    scorers: list[ScorerChoice] = [ScorerChoice(name="implicit")]
    """One, or several: then the weighted sum of their log-sigmoid-centred rewards (arXiv 2402.00742)."""
    quantile: float = 0.85
    """Of the rewards of the reference's responses to a prompt: where the log-sigmoid of each of several scorers is centred."""
    reference_samples: int = 16
    """With several scorers: responses of the round's reference to each prompt, which that quantile is of."""
    policy_scores: Literal["rescore", "sampler"] = "rescore"
    """The policy's log-probs: computed, or taken from the sampler and checked on one prompt in sixteen."""
    max_tokens_per_row: int = 16384
    """Tokens in a packed row when scoring."""
    length_unit: Literal["characters", "tokens"] = "characters"
    """What |y| counts; characters without white space around the response."""
    length_alpha: float | Literal["fit"] = "fit"
    """α of s − α·|y|: fitted so that pairs are equally long on average, or a number; 0 is off."""
    pairing: str = "best_worst"
    """Which responses of a prompt become pairs: best_worst, best_median, best_second, quartiles, two_best_two_worst, best_rest,
    right_over_wrong."""
    pairs: int | None = None
    """So many pairs of a prompt at most, drawn at random; left out, all that the rule gives."""
    replay: float = 0.5
    """γ, the share of offline preferences (`data.train`) in what is trained on; 0 is off."""
    exploration: Literal["none", "policy"] = "none"
    """`policy`: the greedy response of the policy at the start of the round, which is the round's reference, joins each tree as a leaf
    without an edge, for `loss_type: [selm]`."""
    overrides: list[dict[str, Any]] = []
    """Dotted overrides of each round in turn, `[{}, {training.learning_rate: 3.0e-7}]`: keys of `training`, `rollouts`, `rounds`,
    `thoughts` and `code`; rounds beyond the list have none."""

    key: ClassVar[str] = "rounds"

    @property
    def needs_data(self) -> str:
        """The pairs that are replayed, ranked or taken."""
        if self.candidates != "samples":
            return f"for rounds.candidates: {self.candidates}"
        return f"for rounds.replay: {self.replay:g}" if self.replay > 0 else ""

    @property
    def task_of_questions(self) -> str | None:
        """That of `questions`."""
        return self.questions

    @property
    def asks_prompts(self) -> bool:
        """Yes, where they are no questions of a task."""
        return self.questions is None

    @property
    def goes_on_from_texts(self) -> bool:
        """Questions are asked behind worked examples."""
        return self.questions is not None

    @property
    def asks_the_same_in_all_rounds(self) -> bool:
        """Questions are written down once."""
        return self.questions is not None

    def prefix(self, number: int) -> str:
        """Of the names of the stages of a round, which counts from 1."""
        return f"round-{number}/"

    def part(self, number: int) -> tuple[int, int]:
        """Which prompts a round asks, as (number from 0, of how many parts); (0, 1): all."""
        return (number - 1, self.count) if self.prompts == "split" else (0, 1)


class Once(Rounds):
    """The only round of a recipe without `rounds`."""

    count: int = 1

    def prefix(self, number: int) -> str:
        """None."""
        return ""


LOOP = ("count", "prompts", "reference", "overrides")
"""Keys of `rounds` that say how rounds follow each other; the others are of the method that ranks responses by rewards."""
_PAIRS_OF_ITS_OWN = {
    f"rounds.{key}": f"which has pairs of its own: expected {', '.join(LOOP[:-1])} or {LOOP[-1]}"
    for key in Rounds.model_fields
    if key not in LOOP
}
_NO_DATA = dict.fromkeys(("data.train", "data.limit"), "which makes the preferences that are trained on")


KNOW_THE_ANSWERS = ("checker", "answer", "steps")
"""Judges that read the gold answers: what a search reaches with one is no score of the model's."""


class JudgeChoice(Section):
    """What gives the paths of a search their values."""

    name: str = "self_evaluation"
    """self_evaluation, vote, checker, steps, answer, a scorer (implicit, reward_model, function, ...), or `module:class` of your own."""
    votes: int = 5
    """m, judgements of each path; with `answer`, completions of it."""
    temperature: float = 0.4
    """Of the judgements or completions."""
    options: dict[str, Any] = {}
    """The judge's own."""


class Edges(Section):
    """Which preferences a search tree gives."""

    paths: Literal["judged", "gold"] = "judged"
    """The paths that count as good: those of the winning answer (the task's `winner`), or those with the gold answer. With `form:
    first_errors` `judged` is every step that the judge calls right."""
    form: Literal["steps", "responses", "first_errors"] = "steps"
    """Thoughts against their siblings (CPO), or whole paths against each other, for comparison; or the first wrong step of a path against
    its right siblings (Step-DPO, arXiv 2406.18629)."""
    right_above: float | None = None
    """With `form: first_errors`: a step whose value is higher is right, any other wrong; left out, 0."""
    min_gap: float | None = None
    """The values of a pair differ by so much at least."""
    cap: int | None = None
    """Pairs of a kept thought, at most."""
    weight: Literal["pair", "thought"] = "pair"
    """`pair`: every pair counts once; `thought`: every kept thought does, its pairs share its weight, for `loss_type: [sft]`."""

    @model_validator(mode="after")
    def _has_a_use_for_its_keys(self) -> Edges:
        if self.right_above is not None and self.form != "first_errors":
            raise ValueError(f"right_above is of no use with form: {self.form}: expected form: first_errors")
        return self


class Thoughts(MethodSection):
    """Tree-of-thought search and training on its preferences (CPO, arXiv 2406.09136)."""

    key: ClassVar[str] = "thoughts"
    of_no_use: ClassVar[Mapping[str, str]] = {**_NO_DATA, **_PAIRS_OF_ITS_OWN}
    chat_form: ClassVar[str] = "examples_in_chat"

    task: str
    """bamboogle, 2wikimultihopqa, hotpotqa, fever, feverous, vitaminc, gsm8k, svamp, game24, sums, ..., or a YAML file of your own."""
    judge: JudgeChoice = JudgeChoice()
    """Who judges paths."""
    keep: int = 3
    """n, the best paths that go on at each step."""
    keep_at_most: int | None = None
    """With those that tie with the n-th, at most; equal to `keep`, ties are cut; left out, all ties go on, as in CPO's code."""
    min_value: float | None = None
    """A path of a lower value dies; left out, the best go on whatever they are worth."""
    min_characters: int = 4
    """A shorter thought is dropped."""
    together: int = 64
    """Questions that advance together, level by level; also what an interruption costs at most."""
    edges: Edges = Edges()
    """Which preferences the trees give."""

    @property
    def task_of_questions(self) -> str | None:
        """The task that is searched."""
        return self.task

    @property
    def goes_on_from_texts(self) -> bool:
        """Thoughts follow worked examples."""
        return True


class Sandboxing(Section):
    """How programs are kept from the host, and what they may use."""

    isolation: Literal["require-strong", "best-available", "limits-only"] = "best-available"
    """`require-strong`: namespaces, or nothing runs; `limits-only` protects nothing but time and memory."""
    seconds: float = 10.0
    """CPU time of a program, for all its tests; for each test where a program reads standard input. One that sleeps is ended after
    twice as much wall clock, one that does not get the CPU after ten times as much."""
    memory_gb: float = 1.0
    """Address space of a program."""
    packages: list[str] = []
    """Installed packages that programs and their tests may import besides the standard library."""
    tolerance: float = 1e-6
    """By how much a number may differ, relatively or absolutely, where one with a fraction is expected; 0: exactly. Problems of APPS
    always have 1e-6."""
    confirm: bool = False
    """Run a program that passes once more, with another hash seed; it must pass again."""


class Code(MethodSection):
    """Preferences from programs that pass their tests over programs that fail (arXiv 2410.18585)."""

    key: ClassVar[str] = "code"
    of_no_use: ClassVar[Mapping[str, str]] = {
        **_NO_DATA, **_PAIRS_OF_ITS_OWN, "model.reference": "where a training's reference is the policy at its start"
    }  # fmt: skip
    share_is_of_the_limited: ClassVar[bool] = True

    format: str = "auto"
    """humaneval, evalplus, mbpp, apps, livecodebench, own; auto: by the columns."""
    tests_from: str | None = None
    """`module:function` of your own that makes the tests of problems without: record → Python text with assertions."""
    check_solutions: bool = True
    """Set problems aside whose own solution does not pass."""
    decontaminate: list[str] = ["openai/openai_humaneval", "google-research-datasets/mbpp:full"]
    """Benchmarks (their test split) whose problems are left out; those of `measure` always are."""
    sandbox: Sandboxing = Sandboxing()
    """Where programs run."""
    pairing: str = "random"
    """Which pairs come first: random, closest (most similar), hardest (most tests passed by the worse), focus (most lines in common
    before the first difference)."""
    pairs: int | None = None
    """So many pairs of a problem at most; left out, every pass × fail."""
    min_gap: float | None = None
    """Rank by share of tests passed instead: a pair differs by so much at least."""
    drop_truncated: bool = True
    """Programs cut off for length are no part of a pair."""

    @property
    def goes_on_from_texts(self) -> bool:
        """Programs are completed."""
        return True

    @property
    def asks_the_same_in_all_rounds(self) -> bool:
        """Problems are chosen once."""
        return True
