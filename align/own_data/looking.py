"""What a user's data is: pairs, questions with answers, problems with tests, or prompts alone, and what can be told of it."""

from __future__ import annotations

import enum
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.errors import AlignError
from align.own_data.columns_by_name import guessed_columns
from align.trees import ColumnsError, PreferenceTree, Prompt, Rejected, is_tree_record, read_records, tree_of
from align.trees.files import LOOKED_AT
from align.trees.forms import asked_of
from align.trees.other_forms import unfolded, why_no_pair

READ_AT_MOST = 100_000  # records of a source that are looked at
KEPT = 500  # usable records that are kept, to measure lengths on
PLAIN = "prompt, chosen and rejected as texts"
"""The form of pairs that go to the model without a template."""
_ANSWERS = ("answer", "gold", "gold_answer", "final_answer", "correct_answer", "target", "solution", "label", "output", "response")
_QUESTIONS = ("question", "problem", "query", "prompt", "instruction", "input")
_WRITTEN = ("output", "response")  # columns of what a model should write: right answers only where they are numbers
_SHORT = 60  # characters of an answer that can be compared
_NUMBER = re.compile(r"\s*[-+]?[$€£]?\s*\d[\d,. ]*(/\s*\d+)?\s*%?\s*$")


class DataKind(enum.Enum):
    """What a data set holds, and with that which method trains on it."""

    PAIRS = "pairs"
    TREES = "trees"
    PROBLEMS = "problems with tests"
    QUESTIONS = "questions with answers"
    PROMPTS = "prompts"


@dataclass(frozen=True)
class GoldAnswers:
    """Where questions and their right answers stand.

    Attributes:
        question: the column of questions.
        answer: the column of answers.
        pattern: a regular expression whose group is the answer in that column; None: the whole column.
        task: the task that comes along and asks such questions: gsm8k (numbers), math (LaTeX) or bamboogle (words).
    """

    question: str
    answer: str
    pattern: str | None
    task: str


@dataclass(frozen=True)
class Look:
    """What is known of a data set after looking at it.

    Attributes:
        source: where it was read.
        split: of a hub data set.
        holds: its kind.
        total: records that were read.
        whole: whether these are all.
        usable: how many of them can be used.
        unusable: the first that cannot, if there is one.
        columns: our names → the data set's, where they were guessed.
        form: the form of a record, in words.
        gold: of questions, where the answers are.
        trees: of pairs and trees, the first that are usable.
        prompts: of the other kinds, the first prompts.
    """

    source: str
    split: str
    holds: DataKind
    total: int = 0
    whole: bool = True
    usable: int = 0
    unusable: Rejected | None = None
    columns: dict[str, str] = field(default_factory=dict)
    form: str = ""
    gold: GoldAnswers | None = None
    trees: Sequence[PreferenceTree] = ()
    prompts: Sequence[Prompt] = ()


def look_at(source: str | os.PathLike[str], split: str = "train") -> Look:
    """What a data set is.

    Args:
        source: a file, or a name on the hub, as for `align.trees.read_records`.
        split: of a hub data set.

    Raises:
        AlignError: there is no record in it, or its columns are those of nothing that is known.
    """
    records = read_records(source, split)
    first = list(itertools.islice(records, LOOKED_AT))
    if not first:
        raise AlignError(f"{source}: there is no record in it")
    known = [record for _, record in first if isinstance(record, Mapping)]
    if not known:
        raise AlignError(f"{source}: none of the first {len(first)} lines is a record; the first: {reason_of(first[0][1])}")
    every = itertools.chain(first, records)
    columns = _columns_of_pairs(known)
    if columns is not None:
        return _look_at_pairs(str(source), split, every, columns)
    if _are_problems(known):
        return _look_at_others(str(source), split, every, DataKind.PROBLEMS, "the form is told by the columns", None)
    gold = _gold_answers(known)
    if gold is not None:
        form = f"the questions in '{gold.question}', the right answers in '{gold.answer}'"
        return _look_at_others(str(source), split, every, DataKind.QUESTIONS, form, gold)
    if _have_prompts(known):
        return _look_at_others(str(source), split, every, DataKind.PROMPTS, why_no_pair(known[0]) or _prompts_alone(known), None)
    raise AlignError(f"{source}: {_why_unknown(known)}")


def _prompts_alone(known: Sequence[Mapping[str, Any]]) -> str:
    """That there are prompts, and which columns hold more that is not read."""
    others = [name for name in dict.fromkeys(name for record in known for name in record) if name not in _OF_PROMPTS]
    kept = [name for name in others if any(isinstance(record.get(name), (str, list, dict)) for record in known)]
    return f"prompts alone; of no form that is read, and not used: {', '.join(kept)}" if kept else "prompts alone"


_OF_PROMPTS = {"prompt", "messages", "conversations", "system", "id", "prompt_id", "tools", "chat_template_kwargs", "source", "dataset"}


def reason_of(record: Any) -> str:
    """Why a record that is none cannot be used."""
    try:
        tree_of(record)
    except AlignError as error:
        return str(error)
    return ""


# Pairs


def _columns_of_pairs(records: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The mapping with which records are pairs: none is needed, or a guess; None where they are none."""
    if any(is_tree_record(record) for record in records) or _are_pairs(records, {}):
        return {}
    columns = guessed_columns(records)
    return columns if columns and _are_pairs(records, columns) else None


def _are_pairs(records: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> bool:
    """Whether one of the records can be read, or has the columns of a pair though it cannot be used."""
    usable, in_form = 0, 0
    for record in records:
        try:
            tree_of(record, columns)
            usable += 1
        except ColumnsError:
            continue
        except AlignError:
            in_form += 1
    return usable > 0 or (in_form == len(records) and not columns)


def _look_at_pairs(source: str, split: str, records: Iterator[tuple[str, Any]], columns: dict[str, str]) -> Look:
    trees: list[PreferenceTree] = []
    unusable, usable, total, example = None, 0, 0, None
    for where, record in itertools.islice(records, READ_AT_MOST):
        total += 1
        try:
            tree = tree_of(record, columns)
        except AlignError as error:
            unusable = unusable or Rejected(where, str(error), record)
            continue
        usable += 1
        example = example or record
        if len(trees) < KEPT:
            trees.append(tree)
    if example is None:
        assert unusable is not None
        raise AlignError(f"{unusable.where}: {unusable.reason} (none of {total} records can be used)")
    whole = next(records, None) is None
    holds = DataKind.TREES if is_tree_record(example) else DataKind.PAIRS
    return Look(source, split, holds, total, whole, usable, unusable, columns, form_of(example, trees[0], columns), trees=trees)


def form_of(record: Mapping[str, Any], tree: PreferenceTree, columns: Mapping[str, str]) -> str:
    """The form of a pair, in words."""
    if is_tree_record(record):
        return f"trees of {len(tree.nodes)} nodes and {len(tree.edges)} edges (the first)"
    if columns:
        return "under other names, " + ", ".join(f"{target} is '{name}'" for target, name in columns.items())
    if unfolded(record) is not record:
        return (
            "OpenAI's preferences"
            if "preferred_output" in record
            else "instructions with a list of two outputs (LLaMA-Factory's older form)"
        )
    turns = next((name for name in ("conversations", "conversation", "messages") if record.get(name)), None)
    if record.get("prompt") is None and turns is not None:
        return f"ShareGPT preferences ('{turns}' with chosen and rejected)"
    for name, told in (
        ("instruction", "Alpaca preferences (instruction, input, chosen, rejected)"),
        ("question", "questions with two answers"),
    ):
        if record.get("prompt") is None and record.get(name):
            return told
    if isinstance(record.get("chosen"), str) and re.match(r"\s*(Human|User):", str(record["chosen"])):
        return "transcripts of two conversations (HH-RLHF's form)"
    if record.get("prompt") is None:
        return "two whole conversations" if tree.conversational else "two texts with a common beginning, which is the prompt"
    return "prompt, chosen and rejected as messages" if tree.conversational else PLAIN


# Problems, questions, prompts


def _are_problems(records: Sequence[Mapping[str, Any]]) -> bool:
    from data_pipelines.code_execution.formats import FORMATS, recognised

    for record in records:
        try:
            if FORMATS[recognised(record)](record).tests is not None:
                return True
        except AlignError:
            continue
    return False


def _gold_answers(records: Sequence[Mapping[str, Any]]) -> GoldAnswers | None:
    """Where questions and comparable answers stand: in a column of short answers, or after #### or in a \\boxed{} of longer ones."""
    lowered = {str(name).lower(): str(name) for record in records for name in record}
    question = next((lowered[name] for name in _QUESTIONS if name in lowered and _texts(records, lowered[name])), None)
    if question is None:
        return None
    for name in _ANSWERS:
        answers = _texts(records, lowered[name]) if name in lowered and lowered[name] != question else []
        if not answers:
            continue
        for pattern, task in ((r"#### (.+)$", "gsm8k"), (r"\\boxed\{(.+)\}", "math")):
            if all(re.search(pattern, answer) for answer in answers):
                return GoldAnswers(question, lowered[name], pattern, task)
        numbers = all(map(_NUMBER.match, answers))
        if not numbers and (name in _WRITTEN or not all(len(answer) <= _SHORT and "\n" not in answer.strip() for answer in answers)):
            continue
        formulas = any(map(re.compile(r"[\\^{}]").search, answers))
        return GoldAnswers(question, lowered[name], None, "gsm8k" if numbers else "math" if formulas else "bamboogle")
    return None


def _texts(records: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The texts and numbers of a column, where nearly every record has one; else none."""
    values = [record.get(name) for record in records]
    texts = [str(value) for value in values if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip()]
    return texts if len(texts) >= 0.9 * len(values) else []


def _have_prompts(records: Sequence[Mapping[str, Any]]) -> bool:
    return any(_asked(record) is not None for record in records)


def _asked(record: Any) -> Prompt | None:
    try:
        return asked_of(unfolded(record)) if isinstance(record, Mapping) else None
    except AlignError:
        return None


def _look_at_others(
    source: str, split: str, records: Iterator[tuple[str, Any]], holds: DataKind, form: str, gold: GoldAnswers | None
) -> Look:
    prompts: list[Prompt] = []
    unusable, usable, total = None, 0, 0
    for where, record in itertools.islice(records, READ_AT_MOST):
        total += 1
        prompt = _prompt_of(record, holds, gold)
        if prompt is None:
            unusable = unusable or Rejected(where, reason_of(record) if isinstance(record, str) else "it has no prompt", record)
            continue
        usable += 1
        if len(prompts) < KEPT:
            prompts.append(prompt)
    return Look(source, split, holds, total, next(records, None) is None, usable, unusable, form=form, gold=gold, prompts=prompts)


def _prompt_of(record: Any, holds: DataKind, gold: GoldAnswers | None) -> Prompt | None:
    if not isinstance(record, Mapping):
        return None
    if gold is not None:
        asked, answer = record.get(gold.question), record.get(gold.answer)
        return str(asked) if asked is not None and answer is not None else None
    if holds is DataKind.PROBLEMS:
        from data_pipelines.code_execution.formats import FORMATS, recognised

        try:
            return FORMATS[recognised(record)](record).ask
        except AlignError:
            return None
    return _asked(record)


def _why_unknown(records: Sequence[Mapping[str, Any]]) -> str:
    names = ", ".join(map(str, list(dict.fromkeys(name for record in records for name in record))[:30]))
    guessed = guessed_columns(records)
    told = f" ({', '.join(f'{target} may be {name!r}' for target, name in guessed.items())})" if guessed else ""
    return (
        f"it is not clear what the columns {names} hold{told}: expected prompt, chosen and rejected (pairs), question and answer, "
        "problems with tests, or prompt; give the columns these names, or write a recipe with "
        "`data.columns: {prompt: …, chosen: …, rejected: …}`"
    )
