"""Whole responses to the questions of a task, scored by whether they state the gold answer (IRPO, arXiv 2404.19733)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import AlignError
from align.rewards.scorers import Score, ScorerSettings
from align.runs import StageSettings, Task, write_json
from align.trees import PreferenceTree, write_jsonl
from data_pipelines.rollouts.prompts import asked_as, prompt_id
from data_pipelines.thought_trees.forms import FORMS
from data_pipelines.thought_trees.settings import HeldOut, QuestionSource
from data_pipelines.thought_trees.stages import without_held_out
from data_pipelines.thought_trees.tasks import Question, load_task


@dataclass(frozen=True, kw_only=True)
class AskSettings(StageSettings):
    """Settings of `ask`.

    Attributes:
        task: its name, or a YAML file.
        source: of the questions.
        chat: whether they are put as a user's message, else behind worked examples, as text to go on from.
        system: system message of the former, None where there is none.
        held_out: questions to leave out.
    """

    task: str
    source: QuestionSource
    chat: bool
    system: str | None
    held_out: tuple[HeldOut, ...] = ()


def ask(task: Task) -> None:
    """Write down how the questions of a task are asked.

    Inputs: `questions`; `held_out-0` and so on, questions that are left out. Settings: `AskSettings`. Outputs: `prompts.jsonl`, for
    sampling; `questions.json`: the form, the task, and by the id of the prompt each question's fields and gold answers.

    Raises:
        AlignError: the task names no gold answers.
    """
    settings = task.read(AskSettings)
    how = load_task(settings.task)
    questions = without_held_out(settings.source.read(how, task.inputs["questions"]), task, settings.held_out)
    form = FORMS["chat" if settings.chat else "examples"](how)
    prompts = [asked_as(form.prompt(question, settings.system), settings.chat, settings.system) for question in questions]
    if not all(question.gold for question in questions):
        raise AlignError(f"rounds.questions: the task '{settings.task}' names no gold answers (data.gold), which the scorer `answer` needs")
    by_id = {
        prompt_id(prompt): {"fields": dict(question.fields), "gold": list(question.gold)}
        for prompt, question in zip(prompts, questions, strict=True)
    }
    write_jsonl(({"prompt": prompt} for prompt in prompts), task.folder / "prompts.jsonl")
    write_json(task.folder / "questions.json", {"task": settings.task, "chat": settings.chat, "questions": by_id})


class AnswerScorer:
    """1 where a response states the gold answer of its question, else 0; needs `rounds.questions`."""

    def __init__(self, settings: ScorerSettings) -> None:
        """
        Args:
            settings: with `questions`, the file that `ask` left.

        Raises:
            AlignError: there is none.
        """
        if not settings.questions:
            raise AlignError("rounds.scorers: answer needs rounds.questions, the task whose gold answers it looks for")
        asked = json.loads(Path(settings.questions).read_text(encoding="utf-8"))
        self._task = load_task(asked["task"])
        self._form = FORMS["chat" if asked["chat"] else "examples"](self._task)
        self._questions = {id: Question(id, one["fields"], tuple(one["gold"])) for id, one in asked["questions"].items()}

    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """Reads and grades every response."""
        return [
            [self._graded(str(tree.id), str(node.text), node.metadata.get("finish_reason", "stop")) for node in tree.nodes]
            for tree in trees
        ]

    def _graded(self, prompt: str, text: str, ended: str) -> Score:
        stated = self._form.read(text, "length" if ended == "length" else "stop")
        return Score(float(self._task.is_gold(stated, self._questions[prompt])))
