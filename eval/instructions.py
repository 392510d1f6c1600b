"""Greedy responses to instructions, in AlpacaEval's format, ready for a judge."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from align.errors import AlignError
from align.runs import Finished, Task, Work, read_journal, write_json
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import open_engine
from data_pipelines.rollouts.prompts import asked_as, check_system, read_prompts, wants_chat
from data_pipelines.rollouts.protocol import Request, Sampling
from eval.comparison import write_asked
from eval.settings import InstructionSettings
from eval.win_rates.gaming import suspicious

BATCH = 256  # instructions between two writes


def respond(task: Task) -> None:
    """Respond to every instruction.

    Inputs: `model`, `instructions` (a column `instruction`). Settings: `InstructionSettings`. Outputs: `asked.json`, how the
    model was asked; `responses/`, a journal; `outputs.json`, records of `instruction`, `output`, `generator`; `metrics.json`.
    """
    settings = task.read(InstructionSettings)
    prompts, rejected = read_prompts(task.inputs["instructions"], **vars(settings.source))
    if rejected:
        raise AlignError(f"{rejected[0].where}: {rejected[0].reason}: every instruction is to be responded to")
    work = Work(task, "responses", prompts, BATCH, "instructions")
    if not work.is_finished:
        with open_engine(settings.engine, task.inputs["model"]) as engine:
            chat = wants_chat(settings.chat, engine.tokenizer)
            check_system(settings.system, engine.tokenizer, chat, "system")
            ends = stop_token_ids(settings.stop_token_ids, engine.tokenizer, "stop_token_ids")
            sampling = Sampling(settings.max_new_tokens, temperature=0.0, stop_token_ids=ends)
            write_asked(task, sampling, chat=chat)

            def responses() -> Iterator[Finished]:
                for batch in work.batches:
                    requests = [Request(one.id, asked_as(one.prompt, chat, settings.system)) for one in batch]
                    for rollout in engine.generate(requests, sampling):
                        (completion,) = rollout.completions
                        record = {"output": completion.text, "cut": completion.finish_reason == "length"}
                        yield Finished([(rollout.id, record)], len(completion.token_ids))

            work.write(responses())
    records = read_journal(task.folder / "responses")
    outputs = [{"instruction": one.prompt, "output": records[one.id]["output"], "generator": settings.name} for one in prompts]
    write_json(task.folder / "outputs.json", outputs)
    texts = [str(one["output"]) for one in outputs]
    metrics = {
        "characters": fmean(map(len, texts)), "cut": fmean(record["cut"] for record in records.values()), "instructions": len(outputs),
        "flags": len(suspicious(texts)),
    }  # fmt: skip
    write_json(task.folder / "metrics.json", metrics)
