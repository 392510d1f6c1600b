"""The recipe's list `measure`: suites that a model is measured by at the start, after each round and at the end.

A suite is chosen by its name, and has keys of its own:

    sums, style           the micro tasks
    questions             held-out questions of the recipe's own task
    gsm8k, math, ...      any other task of questions, by name or as a YAML file
    code, humaneval, ...  programs that must pass their tests
    instructions          responses to instructions
    lm:TASK               any task of lm-evaluation-harness
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from align.errors import nearest
from align.recipes.sections import Section
from align.validation import OF_A_UNION

OWN_QUESTIONS = "questions"
OWN_PROBLEMS = "code"
PROGRAMS = ("humaneval", "humaneval+", "mbpp", "mbpp+", OWN_PROBLEMS)
INSTRUCTIONS = "instructions"
HARNESS = "lm:"


class Measure(Section):
    """A suite that a model is measured by."""

    suite: str
    """Which: sums, style, questions, a task such as gsm8k or a YAML file, code, humaneval, humaneval+, mbpp, mbpp+, instructions, or
    lm:TASK of lm-evaluation-harness."""
    name: str | None = Field(None, pattern=r"^[^/\\.][^/\\]*$")
    """What its results are called; left out, as the suite."""

    @property
    def label(self) -> str:
        """The name of its results, also that of a folder."""
        return self.name or Path(self.suite).name.removesuffix(".yaml").removesuffix(".yml").replace(":", "-")

    @model_validator(mode="before")
    @classmethod
    def _has_these_keys(cls, raw: Any) -> Any:
        for key in raw if isinstance(raw, dict) else ():
            if key in cls.model_fields:
                continue
            others = {name for suite in SUITES for name in suite.model_fields}
            expected = f"it has {', '.join(cls.model_fields)}"
            if key in others:
                raise ValueError(f"{key} is of no use with the suite '{raw.get('suite')}': {expected}")
            raise ValueError(f"{key} is not a key: {nearest(str(key), cls.model_fields)}")
        return raw


class MicroMeasure(Measure):
    """A micro task, for models that are trained from scratch on it."""

    suite: Literal["sums", "style"]
    """`sums`: the share of greedy responses that are right in every step; `style`: the kindness of samples."""
    problems: int = Field(400, gt=0)
    """How many held-out problems."""


class AskedMeasure(Measure):
    """What every suite has that a sampling engine is asked."""

    problems: int | None = Field(None, gt=0)
    """The first so many questions, problems or instructions; left out, all."""
    chat: bool | None = None
    """Ask in the chat template; left out, as `rollouts` asks, and without one if the tokenizer has a template."""
    max_new_tokens: int | None = Field(None, gt=0)
    """Longest response; left out, as the suite says: for programs and responses to instructions that of `rollouts`, or 1,024."""
    engine: Literal["transformers", "vllm", "server"] | None = None
    """What decodes; left out, that of `rollouts`, or transformers."""


class DataMeasure(AskedMeasure):
    """A suite whose records are read by align."""

    data: str | None = None
    """A data set on the hub ("owner/name", "owner/name:subset") or a file; left out, the suite's own on the hub."""
    split: str | None = None
    """Split of a hub data set; left out, the suite's own, or test."""


class QuestionMeasure(DataMeasure):
    """Questions answered by greedy chain of thought, graded on the stated answer."""

    search: bool | None = None
    """Answer them by tree search too, at the start, with its cost; left out, with `thoughts` unless the judge is `answer` or `steps`, which
    read the gold answers."""


class ProgramMeasure(DataMeasure):
    """Programs that must pass their tests."""

    suite: Literal["humaneval", "humaneval+", "mbpp", "mbpp+", "code"]
    """Which; `code`: problems of your own, named by `data`."""
    samples: int = Field(1, gt=0)
    """n, programs sampled for pass@k, besides the greedy one; 1: the greedy one alone."""
    temperature: float = Field(0.8, ge=0)
    """Of these samples."""
    pass_at: list[int] = [1, 10]
    """Every k of pass@k; those above `samples` are left out."""


class InstructionMeasure(DataMeasure):
    """Greedy responses to instructions, their lengths and flags; `align judge` compares them with others."""

    suite: Literal["instructions"]


class HarnessMeasure(AskedMeasure):
    """A task of lm-evaluation-harness, by its name or as a YAML file, behind `lm:`."""

    suite: str = Field(pattern="^lm:.")
    shots: int | None = Field(None, ge=0)
    """Examples in front of each question; left out, as the task says."""


SUITES: tuple[type[Measure], ...] = (MicroMeasure, QuestionMeasure, ProgramMeasure, InstructionMeasure, HarnessMeasure)


def _class_of(raw: Any) -> str:
    """The tag of the class whose keys an entry has."""
    suite = str(raw.get("suite") if isinstance(raw, dict) else getattr(raw, "suite", ""))
    chosen = {"sums": "micro", "style": "micro", INSTRUCTIONS: "instructions", **dict.fromkeys(PROGRAMS, "programs")}
    return OF_A_UNION + ("harness" if suite.startswith(HARNESS) else chosen.get(suite, "questions"))


def _whole(entry: Any) -> Any:
    """An entry as a section."""
    return {"suite": entry} if isinstance(entry, str) else entry


def _is_entry(entry: Any) -> Any:
    if not isinstance(entry, (dict, Measure)):
        raise ValueError("expected a suite's name, such as gsm8k, or its keys, such as {suite: gsm8k, problems: 200}")
    return entry


Suite = Annotated[
    Annotated[MicroMeasure, Tag(OF_A_UNION + "micro")]
    | Annotated[QuestionMeasure, Tag(OF_A_UNION + "questions")]
    | Annotated[ProgramMeasure, Tag(OF_A_UNION + "programs")]
    | Annotated[InstructionMeasure, Tag(OF_A_UNION + "instructions")]
    | Annotated[HarnessMeasure, Tag(OF_A_UNION + "harness")],
    Discriminator(_class_of),
    BeforeValidator(_is_entry),
    BeforeValidator(_whole),
]
"""An entry of `measure`: a suite's name, or its keys."""


def with_whole_entries(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain data in which each entry of `measure` is a section, so that `measure.0.problems` can be set."""
    entries = raw.get("measure")
    return {**raw, "measure": [_whole(entry) for entry in entries]} if isinstance(entries, list) else dict(raw)
