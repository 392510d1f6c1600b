"""What a look at a user's data found → a commented recipe of the method that fits, and what could not be told."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from align.errors import AlignError
from align.own_data.lengths import Lengths, measure, spread
from align.own_data.looking import PLAIN, DataKind, GoldAnswers, Look
from align.trees import PreferenceTree

_PAIRS_A_STEP, _STEPS_AT_LEAST = 16, 10
_TEMPLATED = re.compile(r"<\||\[INST\]|</?s>|<start_of_turn>|###|(^|\n)\s*(Human|User|Assistant|Question|Q|A):")
"""Signs of a template in a text."""
_ROOM = 512  # tokens of a response that is sampled, where nothing says how long it should be


@dataclass(frozen=True)
class Draft:
    """A recipe to be written.

    Attributes:
        text: of the recipe.
        method: that it trains by, in words.
        told: sentences for the terminal: what was recognised, and what a person should look at.
        task: the text of the task that stands beside it; None where none is needed.
    """

    text: str
    method: str
    told: Sequence[str]
    task: str | None = None


@dataclass
class _Lines:
    """Lines of a recipe."""

    lines: list[str] = field(default_factory=list)

    def comment(self, text: str) -> None:
        """Add a comment of its own lines."""
        width, line = 118, "#"
        for word in text.split():
            if len(line) + 1 + len(word) > width:
                self.lines.append(line)
                line = "#"
            line += f" {word}"
        self.lines.append(line)

    def section(self, name: str, entries: Sequence[tuple[str, Any, str]]) -> None:
        """Add a section of keys, values and comments."""
        self.lines.append(f"{name}:")
        self.lines += [f"  {_entry(key, value, note)}" for key, value, note in entries]

    def key(self, name: str, value: Any, note: str = "") -> None:
        """Add a key without a section."""
        self.lines.append(_entry(name, value, note))


def draft(look: Look, model: str, reference: str | None, target: Path, split: str = "train") -> Draft:
    """The recipe that fits a data set.

    Args:
        look: at the data.
        model: a folder, or a name on the hub.
        reference: the model that `model` was tuned from by DPO, if it was: prompts alone are then trained on by DICE.
        target: the file that the recipe is for.
        split: of a hub data set.

    Raises:
        AlignError: a reference is given that the method has no use for.
    """
    lengths, not_measured = _measured(look, model)
    asks = lengths is not None and lengths.has_template and _are_plain_questions(look)
    if asks:
        look = _as_questions(look)
        lengths, not_measured = _measured(look, model)
    told = [_recognised(look)]
    if look.unusable is not None:
        left_out = look.total - look.usable
        told.append(f"{left_out:,} of {look.total:,} records cannot be used; the first: {look.unusable.where}: {look.unusable.reason}")
    told.append(_lengths_told(look, lengths) if lengths else f"lengths were not measured: {not_measured}")
    told += _to_look_at(look, lengths)
    if look.holds in (DataKind.PROBLEMS, DataKind.QUESTIONS) and reference is not None:
        raise AlignError(f"--reference is of no use with {look.holds.value}: a training's reference is the policy at its start")
    writing = _Writing(look, model, reference, target, split, lengths)
    method, lines, task = writing.written()
    head = _Lines()
    head.comment(f"Written by `align init {look.source}`. Look at what the model sees: align show --as-model-sees {target}")
    for sentence in told:
        head.comment(sentence)
    return Draft("\n".join([*head.lines, *lines.lines]) + "\n", method, told, task)


def _are_plain_questions(look: Look) -> bool:
    """Whether prompts stand in a column of their own, as texts in which there is nothing of a template."""
    prompts = [tree.prompt for tree in look.trees]
    column = look.form == PLAIN or "prompt" in look.columns
    plain = all(isinstance(prompt, str) and not _TEMPLATED.search(prompt) and prompt == prompt.rstrip() for prompt in prompts)
    return look.holds is DataKind.PAIRS and column and plain


def _as_questions(look: Look) -> Look:
    """The pairs with their prompts as user's messages."""
    columns = {"question": look.columns.get("prompt", "prompt"), **{k: v for k, v in look.columns.items() if k != "prompt"}}
    trees = [replace(tree, prompt=[{"role": "user", "content": tree.prompt}]) for tree in look.trees]
    return replace(look, columns=columns, trees=trees)


def _measured(look: Look, model: str) -> tuple[Lengths | None, str]:
    try:
        return measure(look, model), ""
    except AlignError as error:
        return None, str(error)


def _recognised(look: Look) -> str:
    told = f"{look.usable:,}" if look.whole else f"more than {look.usable:,}"
    return f"{told} {look.holds.value}: {look.form.rstrip('. ')}."


def _lengths_told(look: Look, lengths: Lengths) -> str:
    measured = "" if look.whole and len(lengths.prompts) == look.usable else f" (the first {len(lengths.prompts):,})"
    told = f"Lengths{measured}: prompts {spread(lengths.prompts)}"
    return f"{told}, responses {spread(lengths.responses)}." if lengths.responses else f"{told}."


def _to_look_at(look: Look, lengths: Lengths | None) -> list[str]:
    """What could not be told, or may be meant in another way."""
    told = []
    if "question" in look.columns:
        name = look.columns["question"]
        told.append(f"'{name}' is asked as a user's message in the model's chat template; {{prompt: {name}}} would leave it plain text.")
    if look.columns and look.form != PLAIN:
        told.append("The columns were guessed by their names: see that they are right.")
    if lengths is not None and lengths.unusable:
        told.append(f"For this model some records cannot be used; the first: {lengths.unusable}")
    if lengths is not None and lengths.longer:
        told.append(f"{lengths.longer} of {len(lengths.whole)} are longer than max_length and will be cut at their end.")
    if look.trees and not any(_is_parted(tree) for tree in look.trees):
        told.append("Prompts are plain text, and nothing parts them from the responses: see that a blank or a line's end stands between.")
    if look.gold is not None and look.gold.task == "bamboogle":
        told.append("Answers are compared as words: a response is right if its last line states the gold answer.")
    return told


@dataclass(frozen=True)
class _Writing:
    look: Look
    model: str
    reference: str | None
    target: Path
    split: str
    lengths: Lengths | None

    def written(self) -> tuple[str, _Lines, str | None]:
        """The method in words, the recipe's lines, and the task's text."""
        lines, task = _Lines(), None
        if self.look.trees:
            method, base = "DPO", "methods/dpo"
        elif self.look.holds is DataKind.PROBLEMS:
            method, base = "code preferences", "methods/code"
        elif self.look.holds is DataKind.QUESTIONS:
            method, base = "IRPO", "methods/irpo"
        elif self.reference is not None:
            method, base = "DICE", "methods/dice"
        else:
            method, base = "self-rewarding", "methods/self-rewarding"
        lines.key("extends", base, "the method's own values")
        lines.key("description", f"{method} on {Path(self.look.source).name}")
        lines.section("model", self._model())
        if self.look.trees:
            lines.section("data", self._data())
        else:
            lines.section("rollouts", self._rollouts())
        if self.look.gold is not None:
            task = _task_of(self.look.gold)
            named = self.look.gold.task if task is None else str(task_file(self.target))
            lines.section("rounds", [("questions", named, "the task: how questions are asked, and answers compared")])
        elif self.look.holds is DataKind.PROBLEMS:
            lines.section("code", [("format", "auto", "told by the columns")])
        elif self.reference is not None and not self.look.trees:
            lines.section("rounds", [("replay", 0.0, "the share of pairs of your own that are trained on, too; they need data.train")])
        lines.section("training", self._training())
        return method, lines, task

    def _model(self) -> list[tuple[str, Any, str]]:
        entries: list[tuple[str, Any, str]] = [("name_or_path", self.model, "")]
        if self.reference is not None:
            entries.append(("reference", self.reference, "the model that this one was tuned from"))
        if _has_gpu():
            entries.append(("dtype", "bfloat16", "add `lora: {r: 16}` to train an adapter in a fraction of the memory"))
        else:
            entries.append(("dtype", "float32", "no GPU was found here; bfloat16 on one"))
        return entries

    def _data(self) -> list[tuple[str, Any, str]]:
        entries: list[tuple[str, Any, str]] = [("train", self.look.source, "")]
        if self.split != "train":
            entries.append(("train_split", self.split, ""))
        if self.look.columns:
            entries.append(("columns", self.look.columns, "" if self.look.form == PLAIN else "guessed"))
        if self._share_left_out > 0.1:
            note = "the limit is 0.1 where this is left out: so many records cannot be used"
            entries.append(("max_rejected_share", math.ceil(100 * self._share_left_out) / 100, note))
        return entries

    @property
    def _share_left_out(self) -> float:
        return 1 - self.look.usable / self.look.total

    def _rollouts(self) -> list[tuple[str, Any, str]]:
        entries: list[tuple[str, Any, str]] = [("prompts", self.look.source, "")]
        if self.split != "train":
            entries.append(("prompts_split", self.split, ""))
        if self.look.holds is not DataKind.PROMPTS and self.lengths is not None and self.lengths.has_template:
            entries.append(("chat", True, "asked in the model's chat template"))
        entries.append(("engine", _engine(), "vllm, transformers or server"))
        entries.append(("max_new_tokens", self._longest_response, "the longest response: a guess, see what the model writes"))
        return entries

    @property
    def _longest_response(self) -> int:
        if self.lengths is None or self.lengths.most is None:
            return _ROOM
        return max(16, min(_ROOM, self.lengths.most - max(self.lengths.prompts)))

    def _training(self) -> list[tuple[str, Any, str]]:
        name = re.sub(r"[^\w.-]+", "-", Path(self.look.source).name.partition(".")[0]) or "own-data"
        step = max(2, min(_PAIRS_A_STEP, self.look.usable // _STEPS_AT_LEAST))
        device = 2 if step % 2 == 0 else 1
        entries: list[tuple[str, Any, str]] = [("output_dir", f"runs/{name}", "")]
        if self.look.trees:
            steps = math.ceil(self.look.usable / step)
            entries.append(("learning_rate", 5e-7, "for all weights; about 5.0e-6 with lora"))
            entries.append(("num_train_epochs", 1, f"{steps:,} step{'s' if steps != 1 else ''} on these data"))
        elif self.look.holds is DataKind.PROMPTS:
            entries.append(("learning_rate", 5e-7, "for all weights; about 5.0e-6 with lora"))
        entries.append(("per_device_train_batch_size", device, ""))
        entries.append(("global_batch_size", step, "a step's trees over all GPUs"))
        entries.append(("max_length", *self._max_length()))
        if not _has_gpu():
            entries.append(("bf16", False, ""))
        return entries

    def _max_length(self) -> tuple[int, str]:
        if self.lengths is None:
            return 1024, "a guess: lengths were not measured"
        if self.look.trees:
            return self.lengths.limit, f"tokens of prompt and response; the longest has {max(self.lengths.whole):,}"
        length = max(self.lengths.prompts) + self._longest_response
        limit = min(math.ceil(length / 64) * 64, self.lengths.most or length + 64)
        return limit, f"tokens of prompt and response; the longest prompt has {max(self.lengths.prompts):,}"


def task_file(recipe: Path) -> Path:
    """The task that stands beside a recipe."""
    return recipe.with_name(f"{recipe.stem}.task.yaml")


def _task_of(gold: GoldAnswers) -> str | None:
    """The text of a task over one that comes along; None where that reads these columns already."""
    from data_pipelines.thought_trees.tasks import load_task

    base = load_task(gold.task)
    [placeholder] = base.data.fields
    if base.data.fields == {placeholder: gold.question} and (base.data.gold, base.data.gold_pattern) == (gold.answer, gold.pattern):
        return None
    data: dict[str, Any] = {"fields": {placeholder: gold.question}, "gold": gold.answer}
    if gold.pattern is not None:
        data["gold_pattern"] = gold.pattern
    kinds = {"gsm8k": "numbers", "math": "formulas in LaTeX", "bamboogle": "words"}
    lines = [
        f"# How the questions are asked, and their answers compared: as {kinds[gold.task]}. See `align list tasks` and {gold.task}.yaml.",
        f"extends: {gold.task}",
        f"description: questions in '{gold.question}', right answers in '{gold.answer}'",
        yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True).rstrip(),
    ]
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, note: str) -> str:
    if isinstance(value, float):
        mantissa, e, exponent = f"{value:g}".partition("e")
        written = f"{mantissa}{'' if '.' in mantissa or not e else '.0'}{e}{exponent.replace('-0', '-')}" if e else f"{value}"
    else:
        written = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
        written = written.removesuffix("...\n").strip()
    return f"{key}: {written}{f' # {note}' if note else ''}"


def _is_parted(tree: PreferenceTree) -> bool:
    """Whether a conversation, or a text with a blank between prompt and response."""
    return not isinstance(tree.prompt, str) or tree.prompt[-1:].isspace() or str(tree.nodes[0].text)[:1].isspace()


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _engine() -> str:
    import importlib.util

    return "vllm" if _has_gpu() and importlib.util.find_spec("vllm") is not None else "transformers"
