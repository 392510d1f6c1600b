"""The sampling stage of a run: prompts → trees of samples, journalled as they finish."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from align.errors import AlignError
from align.runs import Journal, Progress, Task, own_batches, read_journal
from align.trees import Rejected, to_record, write_jsonl
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.plan import sampling_of
from data_pipelines.rollouts.prompts import Prompt, asked_as, check_system, read_prompts, wants_chat
from data_pipelines.rollouts.protocol import Engine, Request, Rollout, Sampling, seed_of
from data_pipelines.rollouts.samples import tree_of

logger = logging.getLogger(__name__)
FLUSH_SECONDS = 2.0  # how long finished prompts may wait before they are written: what a crash costs at most


def sample(task: Task) -> None:
    """Sample responses to prompts.

    Inputs: `model`, `prompts`. Settings: `source` (see `read_prompts`), `part` and `parts` (which share of the prompts a
    round takes), `chat`, `system`, `engine`, `sampling`, `samples`, `seed`, `round`. Outputs: `samples/`, a journal of tree records;
    `rejected.jsonl`, prompts that cannot be sampled from and why.
    """
    settings = task.settings
    engine_settings = EngineSettings(**settings["engine"])
    prompts, rejected = read_prompts(task.inputs["prompts"], **settings["source"])
    prompts = prompts[settings.get("part", 0) :: settings.get("parts", 1)]
    done = set(read_journal(task.folder / "samples"))
    if all(prompt.id in done for prompt in prompts):
        return
    with open_engine(engine_settings, task.inputs["model"]) as engine:
        sampling = sampling_of(settings["sampling"], engine.tokenizer)
        chat, system = wants_chat(settings["chat"], engine.tokenizer), settings.get("system")
        check_system(system, engine.tokenizer, chat or not any(isinstance(prompt.prompt, str) for prompt in prompts))
        prompts = [Prompt(prompt.id, asked_as(prompt.prompt, chat, system)) for prompt in prompts]
        requests, too_long = _requests(prompts, engine, settings)
        _keep_aside([*rejected, *too_long], task)
        journal = Journal(task.folder / "samples", task.shard)
        texts = {prompt.id: prompt.prompt for prompt in prompts}
        for rollouts in _watched(_rollouts(engine, requests, sampling, done, task), requests, done, task):
            trees = ((rollout.id, tree_of(rollout, texts[rollout.id], engine.tokenizer)) for rollout in rollouts if rollout.id not in done)
            journal.append((id, to_record(tree)) for id, tree in trees)
        journal.close()


def _keep_aside(rejected: Sequence[Rejected], task: Task) -> None:
    """Leave in `rejected.jsonl` what cannot be sampled from; every process of the stage finds the same."""
    if rejected:
        first = f"{rejected[0].where}: {rejected[0].reason}"
        logger.warning(
            "%s: %d prompt(s) are kept in rejected.jsonl, they cannot be sampled from; the first: %s", task.name, len(rejected), first
        )
        write_jsonl(map(vars, rejected), task.folder / "rejected.jsonl")


def _requests(prompts: Sequence[Prompt], engine: Engine, settings: Mapping[str, Any]) -> tuple[list[Request], list[Rejected]]:
    """Requests in the order of prompt length, and the prompts that the template refuses or that leave no room for a response."""
    requests, unusable = [], []
    for prompt in prompts:
        ids, reason = _prompt_ids(prompt, engine)
        if reason is not None:
            unusable.append(Rejected(prompt.id, reason, {"prompt": prompt.prompt}))
            continue
        requests.append(Request(prompt.id, ids, settings["samples"], seed_of(settings["seed"], settings["round"], prompt.id)))
    if not requests:
        raise AlignError(f"no prompt can be sampled from: {unusable[0].reason}")
    return sorted(requests, key=lambda request: (len(request.prompt), request.id)), unusable


def _prompt_ids(prompt: Prompt, engine: Engine) -> tuple[tuple[int, ...], str | None]:
    """A prompt's token ids, and why it cannot be sampled from, if so."""
    try:
        ids = engine.prompt_ids(prompt.prompt)
    except AlignError as error:  # the chat template does not take it
        return (), str(error)
    if not ids:
        return (), "the prompt has no token"
    if engine.context is not None and len(ids) >= engine.context:
        return ids, f"the prompt has {len(ids)} tokens, the model takes {engine.context} with the response"
    return ids, None


def _rollouts(engine: Engine, requests: list[Request], sampling: Sampling, done: set[str], task: Task) -> Iterator[list[Rollout]]:
    """What the engine samples, in the pieces in which it is to be written."""
    if engine.batch is not None:  # batches that do not depend on what was done before give the same numbers to the last bit
        size = max(1, engine.batch // task.settings["samples"])
        for batch in own_batches(requests, size, done, task.shard):
            yield list(engine.generate(batch, sampling))
        return
    mine = [request for request in requests[task.shard.index :: task.shard.count] if request.id not in done]
    waiting: list[Rollout] = []
    written = time.monotonic()
    try:
        for rollout in engine.generate(mine, sampling):
            waiting.append(rollout)
            if time.monotonic() - written > FLUSH_SECONDS:
                yield waiting
                waiting, written = [], time.monotonic()
    except AlignError:  # the engine died: what it gave is kept
        yield waiting
        raise
    yield waiting


def _watched(pieces: Iterator[list[Rollout]], requests: list[Request], done: set[str], task: Task) -> Iterator[list[Rollout]]:
    """Pass pieces on, with a progress bar: prompts done, tokens a second, time left."""
    total = -(-len(requests) // task.shard.count)
    before = min(total, sum(request.id in done for request in requests) // task.shard.count)
    progress = Progress(task, total, before)
    started, tokens = time.monotonic(), 0
    with tqdm(total=total, initial=before, desc=task.name, unit="prompt", mininterval=0.5) as bar:
        for piece in pieces:
            yield piece
            tokens += sum(len(completion.token_ids) for rollout in piece for completion in rollout.completions)
            speed = tokens / (time.monotonic() - started)
            bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
            bar.update(len(piece))
            progress.advance(len(piece), tokens_per_second=round(speed))
