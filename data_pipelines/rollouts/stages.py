"""The sampling stage of a run: prompts → trees of samples, journalled as they finish."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from align.errors import AlignError
from align.runs import Finished, Task, Work, read_journal
from align.trees import Rejected, to_record, write_jsonl
from data_pipelines.rollouts.engines import open_engine
from data_pipelines.rollouts.plan import sampling_of
from data_pipelines.rollouts.prompts import Prompt, asked_as, check_system, read_prompts, wants_chat
from data_pipelines.rollouts.protocol import Engine, Request, Rollout, Sampling, seed_of
from data_pipelines.rollouts.samples import tree_of
from data_pipelines.rollouts.settings import SampleSettings

logger = logging.getLogger(__name__)
FLUSH_SECONDS = 2.0  # how long finished prompts may wait before they are written: what a crash costs at most


def sample(task: Task) -> None:
    """Sample responses to prompts.

    Inputs: `model`, `prompts`. Settings: `SampleSettings`. Outputs: `samples/`, a journal of tree records; `rejected.jsonl`, prompts
    that cannot be sampled from and why.
    """
    settings = task.read(SampleSettings)
    prompts, rejected = read_prompts(task.inputs["prompts"], **vars(settings.source))
    prompts = prompts[settings.part :: settings.parts]
    done = set(read_journal(task.folder / "samples"))
    if all(prompt.id in done for prompt in prompts):
        return
    with open_engine(settings.engine, task.inputs["model"]) as engine:
        sampling = sampling_of(settings.sampling, engine.tokenizer)
        chat, system = wants_chat(settings.chat, engine.tokenizer), settings.system
        check_system(system, engine.tokenizer, chat or not any(isinstance(prompt.prompt, str) for prompt in prompts))
        prompts = [Prompt(prompt.id, asked_as(prompt.prompt, chat, system)) for prompt in prompts]
        requests, too_long = _requests(prompts, engine, settings)
        _keep_aside([*rejected, *too_long], task)
        texts = {prompt.id: prompt.prompt for prompt in prompts}

        def finished(rollouts: Sequence[Rollout]) -> Finished:
            trees = ((rollout.id, to_record(tree_of(rollout, texts[rollout.id], engine.tokenizer))) for rollout in rollouts)
            return Finished(trees, sum(len(completion.token_ids) for rollout in rollouts for completion in rollout.completions))

        if engine.batch is not None:  # batches that do not depend on what was done before give the same numbers to the last bit
            work = Work(task, "samples", requests, max(1, engine.batch // settings.samples))
            work.map(lambda batch: finished(list(engine.generate(batch, sampling))))
        else:
            work = Work(task, "samples", requests, 1)
            work.write(map(finished, _as_they_finish(engine, [request for (request,) in work.batches], sampling)))


def _keep_aside(rejected: Sequence[Rejected], task: Task) -> None:
    """Leave in `rejected.jsonl` what cannot be sampled from; every process of the stage finds the same."""
    if rejected:
        first = f"{rejected[0].where}: {rejected[0].reason}"
        logger.warning(
            "%s: %d prompt(s) are kept in rejected.jsonl, they cannot be sampled from; the first: %s", task.name, len(rejected), first
        )
        write_jsonl(map(vars, rejected), task.folder / "rejected.jsonl")


def _requests(prompts: Sequence[Prompt], engine: Engine, settings: SampleSettings) -> tuple[list[Request], list[Rejected]]:
    """Requests in the order of prompt length, and the prompts that the template refuses or that leave no room for a response."""
    requests, unusable = [], []
    for prompt in prompts:
        ids, reason = _prompt_ids(prompt, engine)
        if reason is not None:
            unusable.append(Rejected(prompt.id, reason, {"prompt": prompt.prompt}))
            continue
        requests.append(Request(prompt.id, ids, settings.samples, seed_of(settings.seed, settings.round, prompt.id)))
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


def _as_they_finish(engine: Engine, requests: list[Request], sampling: Sampling) -> Iterator[list[Rollout]]:
    """What an engine with a schedule of its own samples, in the pieces in which it is to be written."""
    waiting: list[Rollout] = []
    written = time.monotonic()
    try:
        for rollout in engine.generate(requests, sampling):
            waiting.append(rollout)
            if time.monotonic() - written > FLUSH_SECONDS:
                yield waiting
                waiting, written = [], time.monotonic()
    except AlignError:  # the engine died: what it gave is kept
        yield waiting
        raise
    yield waiting
