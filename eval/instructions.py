"""Greedy responses to instructions, in AlpacaEval's format, ready for a judge."""

from __future__ import annotations

from statistics import fmean

from align.errors import AlignError
from align.runs import Journal, Task, own_batches, read_journal, write_json
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.prompts import asked_as, check_system, read_prompts, wants_chat
from data_pipelines.rollouts.protocol import Request, Sampling
from eval.comparison import write_asked
from eval.win_rates.gaming import suspicious

BATCH = 256  # instructions between two writes


def respond(task: Task) -> None:
    """Respond to every instruction.

    Inputs: `model`, `instructions` (a column `instruction`). Settings: `source` (split, limit), `chat`, `system`, `stop_token_ids`,
    `engine`, `max_new_tokens`, `name` of the model. Outputs: `asked.json`, how the model was asked; `responses/`,
    a journal; `outputs.json`, records of `instruction`, `output`, `generator`; `metrics.json`.
    """
    settings = task.settings
    prompts, rejected = read_prompts(task.inputs["instructions"], column="instruction", **settings["source"])
    if rejected:
        raise AlignError(f"{rejected[0].where}: {rejected[0].reason}: every instruction is to be responded to")
    done = read_journal(task.folder / "responses")
    batches = list(own_batches(prompts, BATCH, set(done), task.shard))
    if batches:
        with open_engine(EngineSettings(**settings["engine"]), task.inputs["model"]) as engine:
            chat = wants_chat(settings["chat"], engine.tokenizer)
            check_system(settings["system"], engine.tokenizer, chat, "system")
            ends = stop_token_ids(settings["stop_token_ids"], engine.tokenizer, "stop_token_ids")
            sampling = Sampling(settings["max_new_tokens"], temperature=0.0, stop_token_ids=ends)
            write_asked(task, sampling, chat=chat)
            journal = Journal(task.folder / "responses", task.shard)
            for batch in batches:
                requests = [Request(one.id, asked_as(one.prompt, chat, settings["system"])) for one in batch]
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
