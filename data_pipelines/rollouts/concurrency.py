"""Many requests to a server at a time; answers come out as they arrive."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import httpx

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def concurrently(
    items: Sequence[Item], ask: Callable[[httpx.AsyncClient, Item], Awaitable[Answer]], *, connections: int, timeout: float,
    headers: dict[str, str] | None = None,
) -> Iterator[Answer]:  # fmt: skip
    """Ask for each item; when one fails, what was asked before it may still come, then the error.

    Args:
        items: what to ask for.
        ask: one request, with the client that all share.
        connections: at most so many at a time.
        timeout: of a request, seconds.
        headers: of every request.
    """
    results: queue.Queue[Answer | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    async def work() -> None:
        waiting = iter(items)
        limits = httpx.Limits(max_connections=connections)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, headers=headers) as client:

            async def worker() -> None:
                for item in waiting:
                    if stopped.is_set():
                        return
                    results.put(await ask(client, item))

            async with asyncio.TaskGroup() as group:
                for _ in range(min(connections, len(items))):
                    group.create_task(worker())

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # handed over to the caller's thread
            results.put(error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error)
        results.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopped.set()
        thread.join()
