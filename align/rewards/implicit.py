"""Log-probs of all responses to a prompt in one packed forward, and DPO's implicit reward r̂ = log π − log π₀ of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from align.engine import TokenTree, choose_backend, pack, tree_scores
from align.engine.attention import Use
from align.engine.row_lengths import RowLengths

Row = list[tuple[int, list[int]]]  # of a packed row: prompts by number, each with its responses that stand in it


class ResponseScorer:
    """A frozen model that gives the log-probs of responses, the prompt and what stands in a row computed once."""

    def __init__(self, model: Any, max_tokens: int = 16384, backend: str = "auto") -> None:
        """Args: model, on its device; max_tokens, of a packed row (a prompt with more is scored in several rows);
        backend, of the tree attention.
        """
        self._model = model.eval().requires_grad_(False)
        choice = choose_backend(model, backend, use=Use.of(model, training=False))
        self._backend, self._max_tokens = choice.backend, max_tokens
        self._row_length = RowLengths(max_tokens) if choice.pads_rows else None

    @torch.no_grad()
    def logps(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        """log π of every response token.

        Args:
            prompts: token ids.
            responses: of each prompt, the token ids of its responses.

        Returns:
            Of each prompt, each response's token log-probs, `[its tokens]` float32 on the CPU, in nats.
        """
        found: list[list[Tensor]] = [[] for _ in prompts]
        for row in self._rows(prompts, responses):
            batch = pack([_leaves(prompts[i], [responses[i][k] for k in chosen]) for i, chosen in row], True, self._row_length)
            scores = tree_scores(self._model, batch.to(self._model.device), self._backend).logps
            assert scores is not None
            runs = iter(scores.float().cpu().split(batch.node_lengths[batch.free].tolist()))
            for i, chosen in row:
                found[i] += [next(runs) for _ in chosen]
        return found

    def _rows(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]
    ) -> Iterator[list[tuple[int, list[int]]]]:
        """What goes into each row: (prompt, its responses in that row)."""
        row: Row = []
        free = self._max_tokens
        for i, prompt in enumerate(prompts):
            part: list[int] = []
            for k, response in enumerate(responses[i]):
                cost = len(response) + (0 if part else len(prompt))
                if cost > free and (row or part):
                    yield row + ([(i, part)] if part else [])
                    row, part, free = [], [], self._max_tokens
                    cost = len(response) + len(prompt)
                part.append(k)
                free -= cost
            if part:
                row.append((i, part))
        if row:
            yield row


def _leaves(prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> TokenTree:
    return TokenTree([list(prompt), *map(list, responses)], [-1, *[0] * len(responses)], [], [], [])
