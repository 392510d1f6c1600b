"""How long a user's data is for a model: tokens of prompts and responses, as the model's tokenizer and template make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import AlignError
from align.own_data.looking import Look

_STEP = 64  # tokens to which limits are rounded up
_RARE = 0.99  # share of the paths that a limit is to hold where a few are far longer


@dataclass(frozen=True)
class Lengths:
    """Tokens of what was measured.

    Attributes:
        prompts: of every prompt.
        responses: of every response, with its end; none where the data has no responses.
        whole: of every prompt with its longest response.
        has_template: whether the tokenizer has a chat template.
        most: the model's longest sequence; None where its configuration does not say.
        unusable: why a record that could be read has no tokens, of the first.
    """

    prompts: Sequence[int]
    responses: Sequence[int]
    whole: Sequence[int]
    has_template: bool
    most: int | None
    unusable: str | None = None

    @property
    def limit(self) -> int:
        """The `max_length` that fits: the longest rounded up, but not twice what 99 of 100 need, nor more than the model takes."""
        longest, usual = max(self.whole), sorted(self.whole)[math.ceil(_RARE * len(self.whole)) - 1]
        limit = math.ceil(min(longest, 2 * usual) / _STEP) * _STEP
        return min(limit, self.most) if self.most else limit

    @property
    def longer(self) -> int:
        """How many of what was measured are longer than that."""
        return sum(length > self.limit for length in self.whole)


def measure(look: Look, model: str) -> Lengths:
    """The lengths of what a look kept, for a model.

    Args:
        look: at the data.
        model: a folder, or a name on the hub.

    Raises:
        AlignError: the tokenizer cannot be had, or takes none of the records.
    """
    if model.startswith("micro:"):
        raise AlignError(f"'{model}' is trained when the run begins, and its tokenizer with it")
    from align.models import config_of, load_tokenizer

    tokenizer = load_tokenizer(model)
    most = config_of(model).get("max_position_embeddings")
    known = int(most) if isinstance(most, int) and most > 0 else None
    if look.trees:
        return _of_trees(look, tokenizer, known)
    from align.engine.tokenize import prompt_token_ids, result_of

    template = bool(tokenizer.chat_template)
    asked = [[{"role": "user", "content": p}] if template and isinstance(p, str) else p for p in look.prompts]
    ids = [result_of(prompt_token_ids, prompt, tokenizer) for prompt in asked]
    prompts = [len(run) for run in ids if not isinstance(run, AlignError)]
    if not prompts:
        raise next(run for run in ids if isinstance(run, AlignError))
    return Lengths(prompts, [], prompts, template, known, _first_reason(ids))


def _of_trees(look: Look, tokenizer: Any, most: int | None) -> Lengths:
    from align.engine.tokenize import tokenize_trees

    tokenized = tokenize_trees(look.trees, tokenizer)
    prompts, responses, whole = [], [], []
    for tree in tokenized:
        if isinstance(tree, AlignError):
            continue
        ends: list[int] = []
        for run, parent in zip(tree.tokens, tree.parents, strict=True):
            ends.append(len(run) + (ends[parent] if parent >= 0 else 0))
        leaves = set(range(len(ends))) - set(tree.parents) - {0}
        prompts.append(ends[0])
        responses += [ends[leaf] - ends[0] for leaf in leaves]
        whole.append(max(ends))
    if not whole:
        raise next(tree for tree in tokenized if isinstance(tree, AlignError))
    return Lengths(prompts, responses, whole, bool(tokenizer.chat_template), most, _first_reason(tokenized))


def _first_reason(results: Sequence[Any]) -> str | None:
    return next((str(result) for result in results if isinstance(result, AlignError)), None)


def spread(lengths: Sequence[int]) -> str:
    """Lengths in a few words.

    >>> spread([3, 4, 9])
    '4 (median) to 9 tokens'
    """
    middle, longest = sorted(lengths)[len(lengths) // 2], max(lengths)
    return f"{longest:,} tokens" if middle == longest else f"{middle:,} (median) to {longest:,} tokens"
