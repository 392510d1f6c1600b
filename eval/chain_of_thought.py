"""Questions answered by greedy decoding and graded on the stated answer; and the same numbers for tree searches."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align.runs import Finished, Task, Work, read_journal, write_json
from align.runs.digest import digest_of
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import open_engine
from data_pipelines.rollouts.prompts import check_system
from data_pipelines.rollouts.protocol import Engine, Request, Sampling
from data_pipelines.thought_trees.forms import Form, form_of
from data_pipelines.thought_trees.stages import read_searches
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, load_task
from eval.answers import Answer, write_answers
from eval.comparison import write_asked
from eval.intervals import with_bounds
from eval.settings import AnswerSettings

BATCH = 512  # questions between two writes


def answer(task: Task) -> None:
    """Answer questions by greedy decoding.

    Inputs: `model`, `questions`. Settings: `AnswerSettings`. Outputs: `answers/`, a journal of responses with their answers, grades and
    how they ended; `asked.json`, how the model was asked; `metrics.json`: `accuracy` with its 95% interval, `answered` (the share whose
    answer could be read), `ended` (the share that ended by itself), and the cost, `tokens` generated and `seconds` per question.
    """
    settings = task.read(AnswerSettings)
    how = load_task(settings.task)
    questions = settings.source.read(how, task.inputs["questions"])
    work = Work(task, "answers", questions, BATCH, "questions")
    seconds = 0.0
    if not work.is_finished:
        with open_engine(settings.engine, task.inputs["model"]) as engine:
            name, form = form_of(settings.form, how, engine.tokenizer)
            check_system(settings.system, engine.tokenizer, form.chat, "system")
            ends = stop_token_ids(settings.stop_token_ids, engine.tokenizer, "stop_token_ids")
            longest = settings.max_new_tokens or form.max_new_tokens
            sampling = Sampling(longest, temperature=0.0, stop=form.stop, stop_token_ids=ends)
            shown = form.prompt(Question("", {field: f"{{{field}}}" for field in how.data.fields}), settings.system)
            write_asked(task, sampling, form=name, prompt=shown, reading=_reading(how))

            def answered(batch: list[Question]) -> Finished:
                records = _answered(batch, how, form, engine, sampling, settings.system)
                ids = [question.id for question in batch]
                return Finished(zip(ids, records, strict=True), sum(record["tokens"] for record in records))

            started = time.monotonic()
            work.map(answered)
            seconds = (time.monotonic() - started) / sum(len(batch) for batch in work.batches)
    records = list(read_journal(task.folder / "answers").values())
    write_json(task.folder / "metrics.json", _metrics(records, seconds))


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
        stated = form.read(completion.text, completion.finish_reason)
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
    `tokens` are those of thoughts and judgements together, per question, those of set-aside searches included.
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
    spent = [one.get("cost", {}) for one in (*found, *set_aside.values())]
    tokens = sum(cost.get("tokens", 0) + cost.get("judge_tokens", 0) for cost in spent)
    costs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(task.path("cost").glob("*.json"))]
    seconds = sum(cost["seconds"] for cost in costs) / max(1, sum(cost["questions"] for cost in costs))
    metrics = {
        **with_bounds("accuracy", [one.grade for one in answers]), "answered": len(trees) / total,
        "tokens": tokens / total, "seconds": round(seconds, 4), "questions": total,
    }  # fmt: skip
    write_json(task.folder / "metrics.json", metrics)
