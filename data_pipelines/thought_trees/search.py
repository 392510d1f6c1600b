"""Breadth-first tree-of-thought search of one question, as a coroutine: it asks for samples and judgements, and is sent them.

The search knows no engine. It yields what it needs next (`Ask`), so that a schedule can bring all questions' needs
together in one call; it is sent the results, in order; it returns the tree.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from align.errors import AlignError
from align.trees import ROOT, Message, Node, PreferenceTree
from data_pipelines.rollouts.protocol import Request, Rollout, Sampling, seed_of
from data_pipelines.thought_trees.asks import Ask, Sample
from data_pipelines.thought_trees.judges import Candidate, Judge, Judgement, Level
from data_pipelines.thought_trees.selection import best, outcome, winners, with_agreeing
from data_pipelines.thought_trees.tasks import Question, ThoughtTask
from data_pipelines.thought_trees.thoughts import Thought, begun, thought_of, worth_keeping

logger = logging.getLogger(__name__)
MANY_TIES = 10  # times n, the paths that go on: a judge that tells thoughts apart leaves fewer


class SetAsideError(AlignError):
    """The search of a question cannot go on; the message says why. Other questions are not concerned.

    Attributes:
        cost: calls and tokens until then, as of `selection.outcome`.
    """

    def __init__(self, message: str, cost: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.cost = dict(cost or {})


@dataclass(frozen=True)
class SearchSettings:
    """How wide the search is.

    Attributes:
        thoughts: k, sampled for every kept path at every step.
        keep: n, the best paths go on.
        keep_at_most: with those that tie with the n-th, at most; equal to `keep`, ties are cut; None: every tie goes on.
        min_value: a path of a lower value dies, however few are left; None: no such limit.
        min_characters: a shorter thought is dropped.
        seed: of the samples.
    """

    thoughts: int = 10
    keep: int = 3
    keep_at_most: int | None = None
    min_value: float | None = None
    min_characters: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """A question as the model is asked it: the prompt (text, or messages for chat models) and its token ids."""

    question: Question
    prompt: str | list[Message]
    token_ids: tuple[int, ...]


@dataclass
class _Growing:
    """The tree while it grows. Nodes are only ever added, so that an index names a node for good."""

    task: ThoughtTask
    asked: Asked
    thoughts: list[Thought] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    judgements: dict[int, Judgement] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    cost: Counter[str] = field(default_factory=Counter)

    def path(self, node: int) -> list[int]:
        """Node indices from the first thought to `node`."""
        found: list[int] = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def token_ids(self, node: int) -> tuple[int, ...]:
        """All tokens of the path to `node`, the prompt's left out."""
        return tuple(token for i in self.path(node) for token in self.thoughts[i].token_ids)

    def texts(self, node: int) -> tuple[str, ...]:
        """The thoughts on the path to `node`."""
        return tuple(self.thoughts[i].text for i in self.path(node))

    def value(self, node: int) -> float:
        """What the judge gave; every node that is asked has a value."""
        value = self.judgements[node].value
        assert value is not None
        return value


def search(
    asked: Asked, task: ThoughtTask, judge: Judge, settings: SearchSettings, sampling: Sampling, tokenizer: Any
) -> Generator[Ask, Any, PreferenceTree]:
    """Search one question.

    Args:
        asked: the question.
        task: steps, markers, answers.
        judge: gives paths their values.
        settings: width and seed.
        sampling: of thoughts; the task's stop texts are added.
        tokenizer: the model's.

    Yields:
        What is needed next; to be sent the results, in order.

    Returns:
        The tree of all thoughts, with `score` the judge's value. Node metadata: `judgement`, `copies`, `ended` (the response
        ends here). Tree metadata: `search`, see `selection.outcome`.

    Raises:
        SetAsideError: all paths died, nothing could be judged, or no answer could be read; with what it has cost.
    """
    growing = _Growing(task, asked)
    try:
        return (yield from _grown(growing, judge, settings, sampling, tokenizer))
    except AlignError as error:
        raise SetAsideError(str(error), growing.cost) from error


def _grown(
    growing: _Growing, judge: Judge, settings: SearchSettings, sampling: Sampling, tokenizer: Any
) -> Generator[Ask, Any, PreferenceTree]:
    """Grow the tree of a question step by step; see `search`."""
    task = growing.task
    going: list[int] = [ROOT]  # paths to be extended
    ended: list[int] = []  # kept paths whose response has ended already
    last: list[int] = []  # paths that may state the answer
    for step in range(1, task.steps + 1):
        before = Counter(growing.dropped)
        new = yield from _extend(growing, going, step, settings, sampling, tokenizer)
        if not new and not ended:
            raise SetAsideError(f"step {step}: no thought is left: {_most(growing.dropped - before)}")
        if new:
            yield from _judge(growing, judge, new, step)
        alive = [node for node in new if node in growing.judgements and growing.judgements[node].value is not None]
        if new and not alive and not ended:
            raise SetAsideError(f"step {step}: no judgement of any thought could be read")
        alive = [node for node in alive if settings.min_value is None or growing.value(node) >= settings.min_value]
        if not alive and not ended:
            raise SetAsideError(f"step {step}: all paths died: no thought is worth min_value ({settings.min_value:g})")
        done = [node for node in alive if growing.thoughts[node].ended or step == task.steps]
        last = [*ended, *done]
        kept = best([*ended, *alive], growing.value, settings.keep, settings.keep_at_most)
        if len(kept) > MANY_TIES * settings.keep:
            _warn_of_ties(settings.keep, settings.thoughts)
        going = [node for node in kept if node not in last]
        ended = [node for node in kept if node in last] if step < task.steps else last
        if not going:
            last = ended
            break
    answers = {
        node: answer for node in last if (answer := task.canonical("".join(growing.texts(node)), growing.asked.question)) is not None
    }
    if not answers:
        raise SetAsideError("no final thought states an answer that can be read")
    return _result(growing, answers, step)


def _extend(
    growing: _Growing, going: Sequence[int], step: int, settings: SearchSettings, sampling: Sampling, tokenizer: Any
) -> Generator[Ask, Any, list[int]]:
    """Sample k thoughts for every path that goes on; returns the new nodes."""
    task, asked = growing.task, growing.asked
    stops = (*task.stops(step), *sampling.stop)
    forced = {node: _forced(growing, node, step, tokenizer) for node in going}
    requests = [
        Request(
            f"{asked.question.id}/{node}", asked.token_ids + growing.token_ids(node) + forced[node], settings.thoughts,
            seed_of(settings.seed, asked.question.id, node),
        )
        for node in going
    ]  # fmt: skip
    rollouts: list[Rollout] = yield Sample(tuple(requests), replace(sampling, stop=stops))
    new: list[int] = []
    for parent, rollout in zip(going, rollouts, strict=True):
        growing.cost["calls"] += 1
        growing.cost["tokens"] += sum(len(completion.token_ids) for completion in rollout.completions)
        thoughts = [begun(thought_of(completion, task, tokenizer), forced[parent], task.last_step) for completion in rollout.completions]
        kept = worth_keeping(thoughts, settings.min_characters, growing.dropped)
        new += range(len(growing.thoughts), len(growing.thoughts) + len(kept))
        growing.thoughts += kept
        growing.parents += [parent] * len(kept)
    return new


@cache  # once per process
def _warn_of_ties(keep: int, thoughts: int) -> None:
    """Say that a search grows: where the judge values all paths alike, all go on, k times as many after each step."""
    logger.warning(
        "a search goes on with more than %d paths that its judge gives equal values (keep is %d, and every tie goes on): each step samples "
        "%d thoughts for each of them. `thoughts.keep_at_most` bounds them.", MANY_TIES * keep, keep, thoughts,
    )  # fmt: skip


def _forced(growing: _Growing, node: int, step: int, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the last thought of a path begins with, as they follow the path's text."""
    task = growing.task
    if step < task.steps or not task.last_step:
        return ()
    before = growing.thoughts[node].text[-1:] if node != ROOT else ""
    alone = tokenizer(before, add_special_tokens=False)["input_ids"]
    both = tokenizer(before + task.last_step, add_special_tokens=False)["input_ids"]
    follows = both[: len(alone)] == alone
    return tuple(both[len(alone) :] if follows else tokenizer(task.last_step, add_special_tokens=False)["input_ids"])


def _most(dropped: Counter[str]) -> str:
    """Why most thoughts of a step were dropped."""
    reason, count = dropped.most_common(1)[0]
    return f"{'all' if count == dropped.total() else 'most'} are {reason}"


def _judge(growing: _Growing, judge: Judge, new: Sequence[int], step: int) -> Generator[Ask, Any, None]:
    """Have the new nodes judged; those without a readable judgement get no value."""
    final = step == growing.task.steps
    candidates = tuple(
        Candidate(node, growing.parents[node], growing.texts(node), growing.token_ids(node), final or growing.thoughts[node].ended)
        for node in new
    )
    level = Level(growing.asked.question, growing.asked.prompt, growing.asked.token_ids, step, candidates)
    judgements = yield from judge.judge(level)
    for node, judgement in zip(new, judgements, strict=True):
        growing.judgements[node] = judgement
        growing.cost["judge_tokens"] += judgement.tokens
        growing.cost["judge_calls"] += judgement.calls
        growing.dropped["judgements unreadable"] += judgement.unreadable
        if judgement.value is None:
            growing.dropped["not judged"] += 1


def _result(growing: _Growing, answers: dict[int, str], steps: int) -> PreferenceTree:
    """The tree, with what was found in its metadata (see `selection.outcome`)."""
    question = growing.asked.question
    answer, kept = winners(answers, growing.value, growing.task.winner)
    kept = with_agreeing(kept, answers, answer, growing.task.agree, growing.value)
    gold = [node for node in answers if growing.task.is_right("".join(growing.texts(node)), question)]
    nodes = []
    for index, thought in enumerate(growing.thoughts):
        judgement = growing.judgements.get(index)
        metadata: dict[str, Any] = {"judgement": judgement.details} if judgement and judgement.details else {}
        metadata |= {"copies": thought.copies} if thought.copies > 1 else {}
        metadata |= {"ended": True} if thought.ended else {}
        value = judgement.value if judgement else None
        nodes.append(Node(thought.text, growing.parents[index], thought.token_ids, value, complete=False, metadata=metadata))
    found = outcome(question, answers, answer, kept, gold, steps=steps, dropped=growing.dropped, cost=growing.cost)
    return PreferenceTree(
        growing.asked.prompt, tuple(nodes), prompt_token_ids=growing.asked.token_ids, id=question.id, metadata={"search": found}
    )
