"""Questions answered by greedy decoding and graded on the stated answer; and the same numbers for tree searches."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from align.errors import AlignError, nearest
from align.runs import Journal, Task, own_batches, read_journal, write_json
from align.runs.digest import digest_of
from align.trees import Message
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.prompts import check_system, conversation, wants_chat
from data_pipelines.rollouts.protocol import Completion, Engine, Request, Sampling
from data_pipelines.thought_trees.stages import read_searches
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, load_task, read_questions
from eval.answers import Answer, write_answers
from eval.comparison import write_asked
from eval.intervals import with_bounds

BATCH = 512  # questions between two writes


@dataclass(frozen=True)
class Form:
    """How a task's questions are put to a model, and how its answers are read.

    Attributes:
        prompt: of a question, with a system message or without.
        read: the answer that a completion states, None where none can be read.
        max_new_tokens: longest response.
        stop: texts that end it.
        chat: whether prompts are conversations.
    """

    prompt: Callable[[Question, str | None], str | list[Message]]
    read: Callable[[Completion], str | None]
    max_new_tokens: int
    stop: tuple[str, ...]
    chat: bool


def examples(how: ThoughtTask) -> Form:
    """Worked examples, then the question, as text to go on from; a blank line or the next question ends the response."""
    return Form(
        lambda question, system: how.prompt(question), lambda completion: how.stated_answer(completion.text),
        how.steps * how.max_new_tokens, tuple(how.end), chat=False,
    )  # fmt: skip


def chat(how: ThoughtTask) -> Form:
    """The question alone as a user's message; the model answers in its own way and ends its turn itself."""
    return Form(
        lambda question, system: conversation(how.chat_prompt(question), system),
        lambda completion: how.chat_answer(completion.text, completion.finish_reason), how.chat.max_new_tokens, (), chat=True,
    )  # fmt: skip


def examples_in_chat(how: ThoughtTask) -> Form:
    """Worked examples and the question as a user's message, as searches with `chat` ask; answers in their form or a chat model's own."""
    return Form(
        lambda question, system: conversation(how.prompt(question), system),
        lambda completion: how.stated_answer(completion.text) or how.chat_answer(completion.text, completion.finish_reason),
        how.chat.max_new_tokens, (), chat=True,
    )  # fmt: skip


FORMS: dict[str, Callable[[ThoughtTask], Form]] = {"examples": examples, "chat": chat, "examples_in_chat": examples_in_chat}


def form_of(name: str | None, how: ThoughtTask, tokenizer: Any) -> tuple[str, Form]:
    """A form and its name; None: `chat` for a model with a chat template, `examples` for one without.

    Raises:
        AlignError: there is no such form, or it needs a chat template and there is none.
    """
    name = name or ("chat" if wants_chat(None, tokenizer) else "examples")
    if name not in FORMS:
        raise AlignError(f"form is '{name}': {nearest(name, FORMS)}")
    form = FORMS[name](how)
    if form.chat and not wants_chat(None, tokenizer):
        raise AlignError("the model has no chat template: ask it in plain text (chat: false, --no-chat), or give it a template")
    return name, form


def answer(task: Task) -> None:
    """Answer questions by greedy decoding.

    Inputs: `model`, `questions`. Settings: `task`, `source` (split, limit), `form` (of `FORMS`; None: by the model's chat template),
    `system`, `stop_token_ids`, `max_new_tokens` (None: the form's), `engine`. Outputs: `answers/`, a journal of responses with their
    answers, grades and how they ended; `asked.json`, how the model was asked; `metrics.json`: `accuracy` with its 95% interval,
    `answered` (the share whose answer could be read), `ended` (the share that ended by itself), and the cost, `tokens` generated
    and `seconds` a question.
    """
    settings = task.settings
    how = load_task(settings["task"])
    questions = read_questions(how, task.inputs["questions"], **settings["source"])
    done = set(read_journal(task.folder / "answers"))
    batches = list(own_batches(questions, BATCH, done, task.shard))
    seconds = 0.0
    if batches:
        with open_engine(EngineSettings(**settings["engine"]), task.inputs["model"]) as engine:
            name, form = form_of(settings["form"], how, engine.tokenizer)
            check_system(settings["system"], engine.tokenizer, form.chat, "system")
            sampling = _sampling(form, settings, engine)
            shown = form.prompt(Question("", {field: f"{{{field}}}" for field in how.data.fields}), settings["system"])
            write_asked(task, sampling, form=name, prompt=shown, reading=_reading(how))
            journal, started = Journal(task.folder / "answers", task.shard), time.monotonic()
            for batch in tqdm(batches, desc=task.name, unit="batch"):
                records = _answered(batch, how, form, engine, sampling, settings["system"])
                journal.append((question.id, record) for question, record in zip(batch, records, strict=True) if question.id not in done)
            seconds = (time.monotonic() - started) / sum(len(batch) for batch in batches)
            journal.close()
    records = list(read_journal(task.folder / "answers").values())
    write_json(task.folder / "metrics.json", _metrics(records, seconds))


def _sampling(form: Form, settings: Mapping[str, Any], engine: Engine) -> Sampling:
    return Sampling(
        settings["max_new_tokens"] or form.max_new_tokens, temperature=0.0, stop=form.stop,
        stop_token_ids=stop_token_ids(settings["stop_token_ids"], engine.tokenizer, "stop_token_ids"),
    )  # fmt: skip


def _reading(how: ThoughtTask) -> str:
    """A digest of how a task's answers are read and graded."""
    return digest_of({"answer": how.answer, "chat": how.chat.model_dump(mode="json"), "grader": how.grader})


def _metrics(records: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    endings = Counter(record["finish_reason"] for record in records)
    return {
        **with_bounds("accuracy", [float(record["right"]) for record in records]),
        "answered": sum(record["answer"] is not None for record in records) / len(records),
        "ended": endings["stop"] / len(records), "cut": endings["length"] / len(records),
        "tokens": sum(record["tokens"] for record in records) / len(records), "seconds": round(seconds, 4), "questions": len(records),
    }  # fmt: skip


def _answered(
    batch: Sequence[Question], how: ThoughtTask, form: Form, engine: Engine, sampling: Sampling, system: str | None
) -> list[dict[str, Any]]:
    """A record a question; one whose prompt leaves no room for an answer is not asked, and counts as unanswered."""
    prompts = {question.id: engine.prompt_ids(form.prompt(question, system)) for question in batch}
    requests = [Request(id, ids) for id, ids in prompts.items() if engine.context is None or len(ids) < engine.context]
    rollouts = {rollout.id: rollout for rollout in engine.generate(requests, sampling)}
    found = []
    for question in batch:
        record: dict[str, Any] = {"question": dict(question.fields), "gold": list(question.gold)}
        if question.id not in rollouts:
            reason = f"the prompt has {len(prompts[question.id])} tokens, the model takes {engine.context} with the response"
            unasked = {"response": "", "answer": None, "right": False, "tokens": 0, "finish_reason": "unasked", "reason": reason}
            found.append({**record, **unasked})
            continue
        (completion,) = rollouts[question.id].completions
        stated = form.read(completion)
        right = how.is_gold(stated, question)
        found.append(
            {
                **record,
                "response": completion.text,
                "answer": stated if right or how.is_readable(stated, question) else None,
                "right": right,
                "tokens": len(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "stop_text": completion.stop_text,
            }
        )
    return found


def grade_searches(task: Task) -> None:
    """The numbers of `answer` for a search stage's trees; questions set aside count as wrong.

    Inputs: `searches`, `cost`. Outputs: `answers/`, a journal of the searches' answers with their grades; `metrics.json`, in which
    `tokens` are those of thoughts and judgements together.
    """
    trees, set_aside = read_searches(task.path("searches"))
    found = [tree.metadata["search"] for tree in trees]
    total = len(trees) + len(set_aside)
    answers = [
        Answer(str(tree.id), " / ".join(one["question"].values()), str(one["answer"]), float(one["right"] is True))
        for tree, one in zip(trees, found, strict=True)
    ]
    answers += [Answer(id, " / ".join(one["question"].values()), one["reason"], 0.0) for id, one in set_aside.items()]
    write_answers(task, answers)
    tokens = sum(one["cost"].get("tokens", 0) + one["cost"].get("judge_tokens", 0) for one in found)
    costs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(task.path("cost").glob("*.json"))]
    seconds = sum(cost["seconds"] for cost in costs) / max(1, sum(cost["questions"] for cost in costs))
    metrics = {
        **with_bounds("accuracy", [one.grade for one in answers]), "answered": len(trees) / total,
        "tokens": tokens / max(1, len(trees)), "seconds": round(seconds, 4), "questions": total,
    }  # fmt: skip
    write_json(task.folder / "metrics.json", metrics)
