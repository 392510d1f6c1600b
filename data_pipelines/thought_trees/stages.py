"""The stages of a CPO run: searches, journalled question by question, and the preferences that they give."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.runs import Finished, Task, Work, read_journal, write_json
from align.trees import PreferenceTree, from_record, only_trained, pairs_from_tree, to_record, write_jsonl, write_pairs, write_trees
from data_pipelines.rollouts.engines import open_engine
from data_pipelines.rollouts.plan import sampling_of
from data_pipelines.rollouts.prompts import asked_as, check_system
from data_pipelines.rollouts.protocol import Engine, Sampling
from data_pipelines.thought_trees.asks import Search, together
from data_pipelines.thought_trees.edges import statistics, with_first_error_edges, with_response_edges, with_step_edges
from data_pipelines.thought_trees.judges import Judge, JudgeSettings, find_judge
from data_pipelines.thought_trees.search import Asked, SearchSettings, SetAsideError, search
from data_pipelines.thought_trees.settings import HeldOut, SearchStageSettings, StepEdgeSettings
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, load_task, read_questions

logger = logging.getLogger(__name__)


def search_questions(task: Task) -> None:
    """Search all questions, `together` of them at a time.

    Inputs: `model`, `questions`; `held_out-0` and so on, questions that are left out; `reference`, for judges that need it. Settings:
    `SearchStageSettings`. Outputs: `searches/`, a journal of `{"tree": …}` or `{"question": …, "reason": …, "cost": …}`; `cost/`, seconds
    and questions of each process.
    """
    settings = task.read(SearchStageSettings)
    how = load_task(settings.task)
    questions = without_held_out(settings.source.read(how, task.inputs["questions"]), task, settings.held_out)
    work = Work(task, "searches", questions, settings.together, "questions")
    if work.is_finished:
        return
    with open_engine(settings.engine, task.inputs["model"]) as engine:
        sampling = sampling_of(settings.sampling, engine.tokenizer)
        check_system(settings.system, engine.tokenizer, settings.chat)
        judge = open_judge(task, settings, how, sampling.stop_token_ids)
        cost = _Cost(task)

        def searched(batch: list[Question]) -> Finished:
            asked = [ask(question, how, engine, settings.chat, settings.system) for question in batch]
            results = _searched(asked, how, judge, settings.search, sampling, engine)
            cost.note(len(batch))
            trees = [tree for tree in results.values() if isinstance(tree, PreferenceTree)]
            tokens = sum(_cost(result).get(kind, 0) for result in results.values() for kind in ("tokens", "judge_tokens"))
            records = [(question.id, _record(question, results[question.id])) for question in batch]
            return Finished(records, tokens, {"thoughts": sum(len(tree.nodes) for tree in trees)})

        work.map(searched)


class _Cost:
    """Leaves in `cost/` how many questions a process has searched, and in how many seconds."""

    def __init__(self, task: Task) -> None:
        self._path = task.folder / "cost" / f"{task.shard.index}-of-{task.shard.count}.json"
        self._questions, self._started = 0, time.monotonic()

    def note(self, questions: int) -> None:
        self._questions += questions
        write_json(self._path, {"questions": self._questions, "seconds": round(time.monotonic() - self._started, 2)})


def without_held_out(questions: list[Question], task: Task, held_out: Sequence[HeldOut]) -> list[Question]:
    """Questions without those of the inputs `held_out-0` and so on, that will be tested on; `held-out.json` says how many were left out.

    Raises:
        AlignError: none is left.
    """
    ids = {
        question.id
        for number, one in enumerate(held_out)
        for question in read_questions(load_task(one.task), task.inputs[f"held_out-{number}"], one.split, one.limit)
    }
    kept = [question for question in questions if question.id not in ids]
    if len(kept) < len(questions):
        write_json(task.folder / "held-out.json", {"questions left out because they are tested on": len(questions) - len(kept)})
    if not kept:
        raise AlignError(f"{task.inputs['questions']}: every question is among those to be tested on: give other questions")
    return kept


def open_judge(task: Task, settings: SearchStageSettings, how: ThoughtTask, stop_token_ids: tuple[int, ...] = ()) -> Judge:
    """The judge of a search stage, with its options; `stop_token_ids` end judgements as they end thoughts."""
    choice = settings.judge
    return find_judge(choice.name)(
        JudgeSettings(
            how, choice.votes, choice.temperature, settings.search.seed, settings.chat, settings.system, stop_token_ids,
            task.inputs["model"], task.inputs.get("reference", ""), settings.dtype, choice.options,
            min(settings.sampling.max_new_tokens, how.max_new_tokens),
        )
    )  # fmt: skip


def _searched(
    asked: Sequence[Asked], how: ThoughtTask, judge: Judge, width: SearchSettings, sampling: Sampling, engine: Engine
) -> dict[str, PreferenceTree | AlignError]:
    limited = Sampling(**{**vars(sampling), "max_new_tokens": min(sampling.max_new_tokens, how.max_new_tokens)})
    searches: dict[str, Search[PreferenceTree]] = {
        one.question.id: search(one, how, judge, width, limited, engine.tokenizer) for one in asked if _fits(one, how, limited, engine)
    }
    too_long = AlignError(f"the prompt leaves no room for {how.steps} thoughts: the model takes {engine.context} tokens")
    return {one.question.id: too_long for one in asked if one.question.id not in searches} | dict(together(searches, engine))


def ask(question: Question, how: ThoughtTask, engine: Engine, chat: bool, system: str | None) -> Asked:
    """A question as the model is asked it: behind worked examples, as text to go on from or as a user's message."""
    prompt = asked_as(how.prompt(question), chat, system)
    return Asked(question, prompt, engine.prompt_ids(prompt))


def _fits(one: Asked, how: ThoughtTask, sampling: Sampling, engine: Engine) -> bool:
    forced = len(engine.tokenizer(how.last_step, add_special_tokens=False)["input_ids"]) if how.last_step else 0
    return engine.context is None or len(one.token_ids) + how.steps * sampling.max_new_tokens + forced <= engine.context


def _cost(result: PreferenceTree | AlignError) -> Mapping[str, int]:
    """Calls and tokens of a search, also of one that is set aside."""
    if isinstance(result, AlignError):
        return result.cost if isinstance(result, SetAsideError) else {}
    return dict(result.metadata["search"]["cost"])


def _record(question: Question, result: PreferenceTree | AlignError) -> dict[str, Any]:
    if isinstance(result, AlignError):
        return {"question": dict(question.fields), "reason": str(result), "cost": dict(_cost(result))}
    return {"tree": to_record(result)}


def read_searches(folder: Path) -> tuple[list[PreferenceTree], dict[str, dict[str, Any]]]:
    """The searches of a stage, ordered by question id: trees, and those set aside (`question`, `reason`, `cost`) by id."""
    records = sorted(read_journal(folder).items())
    trees = [from_record(record["tree"]) for _, record in records if "tree" in record]
    return trees, {id: record for id, record in records if "reason" in record}


def make_edges(task: Task) -> None:
    """Make the preferences.

    Inputs: `searches`; `model`, where the steps of chats are to be rendered. Settings: `StepEdgeSettings`. Outputs: `pairs.jsonl`,
    trees to be trained on; `flat.jsonl`, the same as prompt/chosen/rejected for any trainer; `searches.jsonl`, every tree whole, with
    values, judgements and edges, for `align show`; `set-aside.jsonl`, questions without a tree and why; `statistics.json`.

    Raises:
        AlignError: no search gives a pair.
    """
    rules = task.read(StepEdgeSettings)
    found, set_aside = read_searches(task.path("searches"))
    steps = with_first_error_edges if rules.form == "first_errors" else with_step_edges
    trees = [steps(tree, rules) for tree in found]
    trained = [with_response_edges(tree, rules) for tree in found] if rules.form == "responses" else trees
    trained = [only_trained(tree) for tree in trained if tree.edges]
    write_trees(trees, task.folder / "searches.jsonl")
    write_jsonl(({"where": id, **record} for id, record in set_aside.items()), task.folder / "set-aside.jsonl")
    reasons = {id: record["reason"] for id, record in set_aside.items()}
    found_edges = statistics(trees, reasons, [record.get("cost", {}) for record in set_aside.values()])
    write_json(task.folder / "statistics.json", found_edges)
    equal, total = found_edges["edges_by_value"]["equal"], found_edges["edges"]
    if 2 * equal > total:
        advice = "the judge seldom tells thoughts apart; `thoughts.edges.min_gap` leaves such pairs out"
        logger.warning("%s: %d of %d pairs join thoughts of equal value: %s", task.name, equal, total, advice)
    if not trained:
        without = (
            "no first wrong step has a right sibling" if rules.form == "first_errors" else "no kept thought has a sibling that was not kept"
        )
        first = next(iter(reasons.values()), without)
        raise AlignError(f"no preference can be made of {len(trees) + len(set_aside)} searches; the first reason: {first}")
    write_trees(trained, task.folder / "pairs.jsonl")
    write_pairs(trained, task.folder / "flat.jsonl", _pairs_of(task))


def _pairs_of(task: Task) -> Callable[[PreferenceTree], Iterator[dict[str, Any]]]:
    """How an edge becomes a pair for other trainers: an unfinished answer of a chat must be rendered to stay open."""
    if "model" not in task.inputs:
        return pairs_from_tree
    from align.engine.export import rendered_pairs  # with what tokenizers need, seconds
    from align.models import load_tokenizer

    return partial(rendered_pairs, tokenizer=load_tokenizer(task.inputs["model"]))
