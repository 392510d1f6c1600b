"""Plain chain of thought: one greedy response a question, graded on its stated answer; and the same numbers for tree searches."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from align.runs import Journal, Task, own_batches, read_journal, write_json
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.prompts import wants_chat
from data_pipelines.rollouts.protocol import Engine, Request, Sampling
from data_pipelines.thought_trees.stages import ask, read_searches
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, load_task, read_questions
from eval.answers import Answer, write_answers

BATCH = 512  # questions between two writes


def answer(task: Task) -> None:
    """Answer questions by greedy decoding.

    Inputs: `model`, `questions`. Settings: `task`, `source` (split, limit), `chat`, `engine`. Outputs: `answers/`, a journal of
    responses with their grades; `metrics.json`: `accuracy`, `answered` (the share whose answer could be read), and the cost,
    `tokens` generated and `seconds` a question.
    """
    settings = task.settings
    how = load_task(settings["task"])
    questions = read_questions(how, task.inputs["questions"], **settings["source"])
    done = set(read_journal(task.folder / "answers"))
    batches = list(own_batches(questions, BATCH, done, task.shard))
    seconds = 0.0
    if batches:
        with open_engine(EngineSettings(**settings["engine"]), task.inputs["model"]) as engine:
            journal = Journal(task.folder / "answers", task.shard)
            chat, started = wants_chat(settings["chat"], engine.tokenizer), time.monotonic()
            for batch in tqdm(batches, desc=task.name, unit="batch"):
                records = _answered(batch, how, engine, chat)
                journal.append((question.id, record) for question, record in zip(batch, records, strict=True) if question.id not in done)
            seconds = (time.monotonic() - started) / sum(len(batch) for batch in batches)
            journal.close()
    records = list(read_journal(task.folder / "answers").values())
    metrics = {
        "accuracy": sum(record["right"] for record in records) / len(records),
        "answered": sum(record["answer"] is not None for record in records) / len(records),
        "tokens": sum(record["tokens"] for record in records) / len(records), "seconds": round(seconds, 4), "questions": len(records),
    }  # fmt: skip
    write_json(task.folder / "metrics.json", metrics)


def _answered(batch: Sequence[Question], how: ThoughtTask, engine: Engine, chat: bool) -> list[dict[str, Any]]:
    asked = [ask(question, how, engine, chat) for question in batch]
    sampling = Sampling(how.steps * how.max_new_tokens, temperature=0.0, stop=tuple(how.end))
    rollouts = {r.id: r for r in engine.generate([Request(one.question.id, one.token_ids) for one in asked], sampling)}
    found = []
    for question in batch:
        (completion,) = rollouts[question.id].completions
        found.append(
            {
                "question": dict(question.fields),
                "response": completion.text,
                "answer": how.stated_answer(completion.text),
                "gold": list(question.gold),
                "right": how.is_right(completion.text, question),
                "tokens": len(completion.token_ids),
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
        "accuracy": sum(one.grade for one in answers) / total, "answered": len(trees) / total,
        "tokens": tokens / max(1, len(trees)), "seconds": round(seconds, 4), "questions": total,
    }  # fmt: skip
    write_json(task.folder / "metrics.json", metrics)
