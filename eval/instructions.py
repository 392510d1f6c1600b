"""Greedy responses to instructions, in AlpacaEval's format, ready for a judge."""

from __future__ import annotations

from statistics import fmean

from align.runs import Journal, Task, own_batches, read_journal, write_json
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.prompts import as_conversation, read_prompts, wants_chat
from data_pipelines.rollouts.protocol import Request, Sampling
from eval.win_rates.gaming import suspicious

BATCH = 256  # instructions between two writes


def respond(task: Task) -> None:
    """Respond to every instruction.

    Inputs: `model`, `instructions` (a column `instruction`). Settings: `source` (split, limit), `chat`, `engine`, `max_new_tokens`, `name`
    of the model. Outputs: `responses/`, a journal; `outputs.json`, records of `instruction`, `output`, `generator`; `metrics.json`.
    """
    settings = task.settings
    prompts = read_prompts(task.inputs["instructions"], column="instruction", **settings["source"])
    done = read_journal(task.folder / "responses")
    batches = list(own_batches(prompts, BATCH, set(done), task.shard))
    if batches:
        with open_engine(EngineSettings(**settings["engine"]), task.inputs["model"]) as engine:
            journal = Journal(task.folder / "responses", task.shard)
            for batch in batches:
                asked = as_conversation(batch) if wants_chat(settings["chat"], engine.tokenizer) else batch
                requests = [Request(one.id, one.prompt) for one in asked]
                sampling = Sampling(settings["max_new_tokens"], temperature=0.0)
                for rollout in engine.generate(requests, sampling):
                    (completion,) = rollout.completions
                    if rollout.id not in done:
                        journal.append([(rollout.id, {"output": completion.text, "cut": completion.finish_reason == "length"})])
            journal.close()
    records = read_journal(task.folder / "responses")
    outputs = [{"instruction": one.prompt, "output": records[one.id]["output"], "generator": settings["name"]} for one in prompts]
    write_json(task.folder / "outputs.json", outputs)
    texts = [str(one["output"]) for one in outputs]
    metrics = {
        "characters": fmean(map(len, texts)), "cut": fmean(record["cut"] for record in records.values()), "instructions": len(outputs),
        "flags": len(suspicious(texts)),
    }  # fmt: skip
    write_json(task.folder / "metrics.json", metrics)
