"""What is written in a rehearsal beside the models' own words: responses, thoughts and programs as the recipe's records have them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from textwrap import indent
from typing import Any

from align.errors import AlignError
from align.runs import External, Output, Stage
from align.trees import Node, PreferenceTree, locate_trees
from data_pipelines.code_execution.problems import Problem, read_problems
from data_pipelines.code_execution.sandbox.tests import Calls, Outputs
from data_pipelines.code_execution.stages import asked, test_maker
from data_pipelines.rollouts.prompts import prompt_id, read_prompts
from data_pipelines.rollouts.scripted_engine import Script
from data_pipelines.thought_trees.answered import AskSettings
from data_pipelines.thought_trees.forms import FORMS
from data_pipelines.thought_trees.settings import QuestionSource
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, load_task

LONGEST = 600  # characters of a written response
PLAIN = ("It depends on what is asked for.", "Yes. Here is why: it follows from what was said.", "I am not sure about this one.")
FINAL = ("So the final answer is: {}.", "The answer is {}.", "The answer is {}", "#### {}", r"The answer is \boxed{{{}}}.", "{}")


def script_of(stage: Stage, stages: Sequence[Stage]) -> Script | None:
    """What is written in a stage; None where its model is left alone: in evaluations, and where models and data are made in the run.

    Raises:
        AlignError: what the stage reads is not there, or is not what the method needs.
    """
    if stage.function == "data_pipelines.thought_trees.stages:search_questions":
        return _thoughts(stage) if isinstance(stage.inputs["questions"], External) else None
    if stage.function != "data_pipelines.rollouts.stages:sample":
        return None
    prompts = stage.inputs["prompts"]
    if isinstance(prompts, External):
        return _responses(prompts.source, stage.settings["source"])
    choosing = next(one for one in stages if isinstance(prompts, Output) and one.name == prompts.stage)
    problems, questions = choosing.inputs.get("problems"), choosing.inputs.get("questions")
    if isinstance(questions, External):
        return _answers(questions.source, AskSettings.of(choosing.settings))
    return _programs(problems.source, choosing.settings) if isinstance(problems, External) else None


def _responses(source: str, settings: dict[str, Any]) -> Script:
    """Both responses of preference pairs to the prompts that have some; to others those of their neighbours."""
    prompts, _ = read_prompts(source, **settings)
    own: dict[str, list[str]] = {}
    with contextlib.suppress(AlignError):  # prompts alone, no pairs
        for _, tree in itertools.islice(locate_trees(source, settings["split"]), 4 * len(prompts)):
            if isinstance(tree, PreferenceTree):
                own.setdefault(prompt_id(tree.prompt), []).extend(_text(node)[:LONGEST] for node in tree.nodes)
    others = [text for texts in own.values() for text in texts]
    others = (others or list(PLAIN))[: len(PLAIN)]
    return Script({prompt.id: _distinct([*own.get(prompt.id, []), *others]) for prompt in prompts})


def _text(node: Node) -> str:
    return node.text if isinstance(node.text, str) else str(node.text[-1].get("content") or "")


def _distinct(texts: Sequence[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if len(text.strip()) > 3]


def _thoughts(stage: Stage) -> Script:
    """The thoughts of the task's worked examples; among those of the last step one that states the right answer."""
    task, questions = load_task(stage.settings["task"]), stage.inputs["questions"]
    assert isinstance(questions, External)
    found = {q.id: _steps(task, q) for q in QuestionSource.of(stage.settings["source"]).read(task, questions.source)}
    return Script(thoughts=found, markers=task.markers, judgements=_judgements(task))


def _steps(task: ThoughtTask, question: Question) -> list[list[str]]:
    shown = [[example.thoughts[step] for example in task.examples] for step in range(task.steps)]
    if not task.examples:
        shown = [[f"Step {step + 1}: {text}" for text in PLAIN] for step in range(task.steps)]
    final = [_stating(task, question, answer) for answer in (*question.gold, "1", "no", *(e.answer for e in task.examples))]
    shown[-1] = _distinct([*(text for text in final if text), *(shown[-1] if task.examples else [])])
    if not shown[-1]:
        raise AlignError(f"thoughts.task: no answer can be written that `answer` ({task.answer}) reads: give the task an example")
    return [_distinct(texts) for texts in shown]


def _stating(task: ThoughtTask, question: Question, answer: str) -> str | None:
    """A last thought that states an answer, in the form of an example, or in a usual one; None where the task cannot read it."""
    examples = [e.thoughts[-1].replace(e.answer, answer) for e in task.examples if e.answer in e.thoughts[-1]]
    for text in (*examples, *(form.format(answer) for form in FINAL)):
        if not any(marker in text for marker in task.markers) and task.canonical(text, question) is not None:
            return text
    return None


def _judgements(task: ThoughtTask) -> list[str]:
    """Those of the task's examples, and votes."""
    votes = ["It is the most promising one.\nVerdict: 1", "Verdict: 2"]
    if task.judge is None:
        return votes
    prompts = (task.judge.step, task.judge.final or task.judge.step)
    return list(dict.fromkeys(example.evaluation for prompt in prompts for example in prompt.examples)) or votes


def _answers(source: str, settings: AskSettings) -> Script:
    """To every question a response that states the gold answer, in the words of an example or usual ones, and some that do not."""
    task = load_task(settings.task)
    form = FORMS["chat" if settings.chat else "examples"](task)
    found = {}
    for question in settings.source.read(task, source):
        texts = [text for answer in question.gold for text in _in_words(task, answer) if task.is_gold(form.read(text, "stop"), question)]
        if not texts:
            raise AlignError(f"rounds.questions: no response can be written that states an answer as the task '{settings.task}' reads it")
        found[prompt_id(form.prompt(question, settings.system))] = [texts[0], *_in_words(task, "1")[:1], *_in_words(task, "no")[:1]]
    return Script(found)


def _in_words(task: ThoughtTask, answer: str) -> list[str]:
    """An answer as the examples state theirs, and as others do."""
    shown = ["".join(task.ended(e.thoughts)).replace(e.answer, answer) for e in task.examples if e.answer in e.thoughts[-1]]
    return [*shown, *(form.format(answer) for form in FINAL)]


def _programs(source: str, settings: Any) -> Script:
    """To every problem one program that passes, where one is known or can be made of the tests, and two that do not."""
    reading = {key: settings["source"][key] for key in ("format", "split", "limit")}
    problems = read_problems(source, make_tests=test_maker(settings["tests_from"]), max_rejected_share=1.0, **reading)
    chat = settings["chat"]
    right = {problem.id: problem.solution or _table(problem) for problem in problems}
    if not any(right.values()):
        raise AlignError(f"{source}: no problem of the first {len(problems)} has a solution, so that no program could pass in a rehearsal")
    return Script(
        {
            prompt_id(asked(problem, chat)): [
                _answer(program, problem, chat) for program in (right[problem.id], *_wrong(problem)) if program is not None
            ]
            for problem in problems
        }
    )


def _answer(program: str, problem: Problem, chat: bool) -> str:
    """A program as a chat model answers it, or as a base model goes on from the problem's prefix."""
    if chat or not problem.prefix or not program.startswith(problem.prefix):
        return f"Here is the program.\n\n```python\n{program}\n```"
    return program.removeprefix(problem.prefix)


def _wrong(problem: Problem) -> tuple[str, str]:
    entry = (problem.entry_point or "answer").rpartition(".")[2]
    return f"def {entry}(*arguments):\n    return None", f"def {entry}(*arguments):\n    return arguments[:0]"


def _table(problem: Problem) -> str | None:
    """A program that looks its results up in the tests: right by definition, for problems that come without a solution."""
    if isinstance(problem.tests, Calls):
        table = {repr(list(given)): value for given, value in problem.tests.cases}
        head, _, name = problem.tests.entry_point.rpartition(".")
        taken = "self, *arguments" if head else "*arguments"
        function = f"def {name}({taken}):\n    return {table!r}[repr(list(arguments))]"
        return "class Solution:\n" + indent(function, "    ") if head else function
    if isinstance(problem.tests, Outputs):
        return f"import sys\n\nprint({dict(problem.tests.cases)!r}[sys.stdin.read()])"
    return None
