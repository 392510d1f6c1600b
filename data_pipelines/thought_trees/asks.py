"""What a search or a judge asks for, and how the asks of many searches are answered together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from align.errors import AlignError
from data_pipelines.rollouts.protocol import Engine, Request, Rollout, Sampling, session_of

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sample:
    """Completions are wanted. Answered with a `Rollout` a request, in order."""

    requests: tuple[Request, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Call:
    """A function of many is wanted for one: `function` is called once with all searches' `argument`s in a list, and must
    return as many results. Answered with one's own."""

    function: Callable[[list[Any]], list[Any]]
    argument: Any


Ask = Sample | Call
Search = Generator[Ask, Any, Result]


def together(searches: Mapping[str, Search[Result]], engine: Engine) -> Iterator[tuple[str, Result | AlignError]]:
    """Let all searches advance level by level, so that each engine call carries every open path of every question.

    Args:
        searches: by name.
        engine: answers `Sample`.

    Yields:
        A search's name with what it returns, or with the `AlignError` that ended it alone, as it ends.

    Raises:
        AlignError: the engine died, or refused a request.
    """
    with session_of(engine):
        yield from _advanced(searches, engine)


def _advanced(searches: Mapping[str, Search[Result]], engine: Engine) -> Iterator[tuple[str, Result | AlignError]]:
    waiting: dict[str, Ask] = {}
    answers: dict[str, Any] = dict.fromkeys(searches)
    while answers:
        for name, answer in answers.items():
            try:
                waiting[name] = searches[name].send(answer)
            except StopIteration as end:
                yield name, end.value
            except AlignError as error:
                yield name, error
        answers = _answered(waiting, engine)
        waiting = {name: ask for name, ask in waiting.items() if name not in answers}


def _answered(waiting: Mapping[str, Ask], engine: Engine) -> dict[str, Any]:
    """Answer all asks that can be answered in one call with the first."""
    if not waiting:
        return {}
    first = next(iter(waiting.values()))
    if isinstance(first, Sample):
        mine = {name: ask for name, ask in waiting.items() if isinstance(ask, Sample) and ask.sampling == first.sampling}
        requests = [request for ask in mine.values() for request in ask.requests]
        rollouts: dict[str, Rollout] = {rollout.id: rollout for rollout in engine.generate(requests, first.sampling)}
        return {name: [rollouts[request.id] for request in ask.requests] for name, ask in mine.items()}
    calls = {name: ask for name, ask in waiting.items() if isinstance(ask, Call) and ask.function == first.function}
    results = first.function([ask.argument for ask in calls.values()])
    return dict(zip(calls, results, strict=True))
