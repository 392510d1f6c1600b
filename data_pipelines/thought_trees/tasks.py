"""Tasks: one declarative YAML file each says how questions are asked, how thoughts end, what the answer is, and how it is judged."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from align.errors import AlignError, nearest
from align.runs import External, Input
from align.trees import read_records
from align.validation import first_problem
from data_pipelines.rollouts.prompts import prompt_id
from data_pipelines.thought_trees.chat.form import ChatForm, label_texts
from data_pipelines.thought_trees.graders import Grader, open_grader

TASK_FILES = Path(__file__).parent / "task_files"


@dataclass(frozen=True)
class Question:
    """A question of a task.

    Attributes:
        id: a hash of its fields: it stays when others come or go.
        fields: what the task's `{placeholders}` stand for.
        gold: right answers; empty where none is known.
    """

    id: str
    fields: Mapping[str, str]
    gold: tuple[str, ...] = ()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Example(_Section):
    """A worked question of a few-shot prompt."""

    fields: dict[str, str]
    """What the placeholders stand for."""
    thoughts: list[str]
    """One text a step, without the marker."""
    answer: str
    """The gold answer."""


class Evaluated(_Section):
    """A path with its evaluation, for the judge's few-shot prompt."""

    fields: dict[str, str]
    """What the placeholders stand for."""
    thoughts: list[str]
    """The path that is judged."""
    evaluation: str
    """What the judge should write; its last line is the verdict."""


class JudgePrompt(_Section):
    """How a path is put to the model for judgement."""

    instruction: str = ""
    """Begins the prompt."""
    examples: list[Evaluated] = []
    """Few-shot examples."""
    ask: str = "Evaluation: "
    """Stands after the path; the model goes on from here."""


class JudgePrompts(_Section):
    """Self-evaluation: a prompt for partial paths, and one of its own for those that state the answer."""

    step: JudgePrompt
    """For partial paths."""
    final: JudgePrompt | None = None
    """For paths that state the answer; left out, `step` serves."""
    verdicts: dict[str, float] = {"likely": 1.0, "impossible": 0.001}
    """The verdicts, in lower case, and what each counts (the numbers of CPO's code: an "impossible" decides between equals only)."""
    verdict_line: str = r"Verdict: *(\w+)\.?"
    """A regular expression that a whole line must match to be the verdict; its group is the verdict."""
    max_new_tokens: int = 96
    """Longest judgement."""
    end: list[str] = ["\n\n", "\nQuestion:"]
    """Texts that end a judgement."""
    unreadable: float | None = None
    """What a judgement without a readable verdict counts; left out, it counts nothing, and a path without a readable one has no value."""


class DataColumns(_Section):
    """Where a data set holds the questions."""

    fields: dict[str, str]
    """The column of each placeholder."""
    gold: str | None = None
    """The column of the right answer: text, a number, or a list of them."""
    gold_pattern: str | None = None
    """A regular expression whose group is the answer in that column."""
    gold_always: str | None = None
    """The right answer, where it is the same for all questions."""


class ThoughtTask(_Section):
    """A task for search and chain of thought."""

    description: str
    """One sentence."""
    data: DataColumns
    """Where a data set holds the questions."""
    question: str
    """How a question is asked, with `{placeholders}`."""
    instruction: str = ""
    """Begins the prompt."""
    examples: list[Example] = []
    """Few-shot examples, each with one thought a step."""
    steps: int
    """S: the last step states the answer."""
    markers: list[str] = ["\n"]
    """Texts that end a thought and belong to it."""
    next_step: list[str] = []
    """Texts that begin the next thought; `{next}` is its number."""
    end: list[str] = []
    """Texts that end the whole response."""
    max_new_tokens: int = 96
    """Longest thought."""
    answer: str
    """A regular expression; the group of its last match is the stated answer."""
    grader: dict[str, Any]
    """`name` of the grader, and its options."""
    winner: Literal["values", "paths"] = "values"
    """Which answer of a search wins: the one whose paths' values sum highest, or the one of most paths."""
    last_step: str = ""
    """Begins the last thought of a search, so that every path states an answer; the model goes on from here. Empty: nothing does."""
    judge: JudgePrompts | None = None
    """Self-evaluation; without it the task needs another judge."""
    chat: ChatForm = ChatForm()
    """How a chat model is asked where it is measured, and how its answer is read."""

    @model_validator(mode="after")
    def _check(self) -> ThoughtTask:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: expected 1 or more")
        asked = _placeholders(self.question)
        for name in sorted(asked - set(self.data.fields)):
            raise ValueError(f"the placeholder '{name}': `data.fields` does not say which column it is")
        for name in sorted(set(self.data.fields) - asked):
            raise ValueError(f"data.fields.{name}: `question` has no place for it")
        if self.chat.question is not None and _placeholders(self.chat.question) != asked:
            places = sorted(_placeholders(self.chat.question))
            raise ValueError(f"chat.question has the placeholders {places}, but the question has {sorted(asked)}")
        for pattern in (self.answer, *self.chat.answer, *([self.judge.verdict_line] if self.judge else [])):
            _check_pattern(pattern)
        assert self._grader is not None  # its name and options are right
        shown = [("examples", e.fields) for e in self.examples]
        if self.judge is not None:
            for prompt in (self.judge.step, self.judge.final or self.judge.step):
                shown += [("judge's examples", e.fields) for e in prompt.examples]
        for where, fields in shown:
            if set(fields) != asked:
                raise ValueError(f"one of the {where} has the fields {sorted(fields)}, but the question has {sorted(asked)}")
        if self.last_step and self.last_step.strip() != self.last_step:
            raise ValueError(f"last_step is {self.last_step!r}: expected no blanks at its ends, as the next token brings its own")
        for number, example in enumerate(self.examples):
            if len(example.thoughts) != self.steps:
                raise ValueError(f"examples[{number}] has {len(example.thoughts)} thoughts, but `steps` is {self.steps}")
            if not self.is_right("".join(self.ended(example.thoughts)), Question("", example.fields, (example.answer,))):
                raise ValueError(f"examples[{number}]: the answer that its thoughts state is not '{example.answer}'")
        return self

    @cached_property
    def _grader(self) -> Grader:
        return open_grader(self.grader)

    @cached_property
    def _answer(self) -> re.Pattern[str]:
        return re.compile(self.answer, re.MULTILINE)

    def ended(self, thoughts: Sequence[str]) -> list[str]:
        """Thoughts as they stand in a prompt: each with the first marker."""
        return [thought + self.markers[0] for thought in thoughts]

    def prompt(self, question: Question) -> str:
        """Instruction, examples, question."""
        shown = [self.question.format(**e.fields) + "".join(self.ended(e.thoughts)) + "\n" for e in self.examples]
        return self.instruction + "".join(shown) + self.question.format(**question.fields)

    def chat_prompt(self, question: Question) -> str:
        """What a chat model is asked: the question without worked examples, and how the answer is to be stated."""
        asked = (self.instruction if self.chat.question is None else "").strip(), self.chat.question or self.question
        parts = (asked[0], asked[1].format(**question.fields), self.chat.statement_for(self.grader))
        return "\n\n".join(part.strip() for part in parts if part.strip())

    def judge_prompt(self, question: Question, thoughts: Sequence[str], final: bool) -> str:
        """Instruction, examples, question and path, ready for the verdict. What all share stands first, for prefix caches."""
        assert self.judge is not None
        how = (self.judge.final if final else None) or self.judge.step
        shown = [self.question.format(**e.fields) + "".join(self.ended(e.thoughts)) + how.ask + e.evaluation + "\n\n" for e in how.examples]
        path = "".join(thoughts)
        path = path if path.endswith(tuple(self.markers)) else path.rstrip() + self.markers[0]
        return how.instruction + "".join(shown) + self.question.format(**question.fields) + path + how.ask

    def stops(self, step: int) -> tuple[str, ...]:
        """Texts that end the thought of a step, those that belong to it first."""
        following = [text.format(next=step + 1) for text in self.next_step] if step < self.steps else []
        return (*self.markers, *following, *self.end)

    def stated_answer(self, response: str) -> str | None:
        """The answer that a response states: the last match of `answer` that is not denied ("the final answer is not 12")."""
        labels = tuple(label.lower() for label in label_texts(self.grader))
        found = [text.strip() for text in self._answer.findall(response)]
        found = [text for text in found if not _DENIED.match(text) or text.lower().startswith(labels)]
        return found[-1] or None if found else None

    def chat_answer(self, response: str, finish_reason: Literal["stop", "length"]) -> str | None:
        """The answer that a chat model's response states, in the forms of `chat`."""
        return self.chat.answer_in(response, finish_reason, self.grader)

    def canonical(self, response: str, question: Question) -> str | None:
        """The stated answer in the form in which equal answers are equal texts."""
        stated = self.stated_answer(response)
        return None if stated is None else self._grader.canonical(stated, question.fields)

    def is_right(self, response: str, question: Question) -> bool:
        """Whether the stated answer is the gold one."""
        return self.is_gold(self.stated_answer(response), question)

    def is_gold(self, stated: str | None, question: Question) -> bool:
        """Whether an answer, as it was stated, is the gold one."""
        return self._grader.is_right(stated, question.gold, question.fields)

    def is_readable(self, stated: str | None, question: Question) -> bool:
        """Whether an answer, as it was stated, is one of the kind that the grader compares."""
        return stated is not None and self._grader.canonical(stated, question.fields) is not None

    def agree(self, answer: str, other: str) -> bool:
        """Whether two answers in canonical form say the same."""
        return self._grader.agree(answer, other)

    def check_step(self, thoughts: Sequence[str], question: Question) -> bool | None:
        """Whether the last of these thoughts is right; None where the grader cannot see it."""
        return self._grader.check_step(thoughts, question.fields)


_DENIED = re.compile(r"\W*(?:not|n't|never)\b", re.IGNORECASE)


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"the regular expression '{pattern}' has {groups} groups: expected one, which holds what is looked for")


def load_task(name: str) -> ThoughtTask:
    """A task by name, or from a user's YAML file.

    Raises:
        AlignError: no such task, a missing or unknown field, an example that contradicts the rest.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASK_FILES / f"{name}.yaml"
    if not path.is_file():
        known = available_tasks()
        raise AlignError(f"thoughts.task '{name}': no such task: {nearest(name, known)} A task of your own is a .yaml file")
    try:
        return ThoughtTask.model_validate(_read(path))
    except ValidationError as error:
        raise AlignError(first_problem(error, str(path), ThoughtTask)) from error


def _read(path: Path) -> dict[str, Any]:
    """A task's fields, those of the task that it `extends` first."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise AlignError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise AlignError(f"{path}: expected keys such as `question` and `steps`, found {type(raw).__name__}")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not (TASK_FILES / f"{base}.yaml").is_file():
        raise AlignError(f"{path}: extends '{base}': no such task: {nearest(str(base), available_tasks())}")
    return {**_read(TASK_FILES / f"{base}.yaml"), **raw}


def file_input(*names: str | None) -> dict[str, Input]:
    """The files among names of tasks as inputs of a stage, so that it is done again when one of them is edited."""
    files = dict.fromkeys(name for name in names if name is not None and name.endswith((".yaml", ".yml")))
    return {f"task-{number}" if number else "task": External(name) for number, name in enumerate(files)}


def check_first_question(task: ThoughtTask, source: Input, split: str) -> None:
    """See that a task's questions can be read from a source that is there: a wrong column shows in the first record.

    Raises:
        AlignError: they cannot.
    """
    if isinstance(source, External):
        read_questions(task, source.source, split, limit=1)


def description_of(name: str) -> str:
    """What a task that comes along says of itself."""
    return str(_read(TASK_FILES / f"{name}.yaml").get("description", ""))


def available_tasks() -> list[str]:
    """The tasks that come along."""
    return sorted(path.stem for path in TASK_FILES.glob("*.yaml"))


def read_questions(task: ThoughtTask, source: str, split: str = "train", limit: int | None = None) -> list[Question]:
    """The distinct questions of a source, in its order.

    Args:
        task: says which columns to read.
        source: as for `align.trees.read_records`.
        split: of a hub data set.
        limit: the first so many.

    Raises:
        AlignError: the source does not exist, lacks a column, or a record is no question; names the place.
    """
    found: dict[str, Question] = {}
    for where, record in read_records(source, split):
        if limit is not None and len(found) >= limit:
            break
        question = _question(task, record, where)
        found.setdefault(question.id, question)
    if not found:
        raise AlignError(f"{source}: there is no question in it")
    return list(found.values())


def _question(task: ThoughtTask, record: Any, where: str) -> Question:
    if not isinstance(record, Mapping):
        raise AlignError(f"{where}: the line is not a record")
    columns = task.data
    for column in (*columns.fields.values(), *([columns.gold] if columns.gold else [])):
        if record.get(column) is None:
            raise AlignError(f"{where}: there is no column '{column}': {nearest(column, record)}")
    fields = {name: str(record[column]) for name, column in columns.fields.items()}
    return Question(prompt_id(yaml.safe_dump(fields)), fields, _gold(columns, record, where))


def _gold(columns: DataColumns, record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if columns.gold is None:
        return () if columns.gold_always is None else (columns.gold_always,)
    value = record[columns.gold]
    answers = [str(one) for one in (value if isinstance(value, list) else [value])]
    if columns.gold_pattern is None:
        return tuple(answers)
    matches = [re.search(columns.gold_pattern, answer) for answer in answers]
    if not all(matches):
        raise AlignError(f"{where}: `{columns.gold}` does not hold an answer: it does not match '{columns.gold_pattern}'")
    return tuple(match.group(1).strip() for match in matches if match)
