"""Which tokens end a response, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align.errors import AlignError, nearest

KEY = "rollouts.stop_token_ids"


def end_token_ids(model: str, tokenizer: Any) -> tuple[int, ...]:
    """The ids of the tokens that end a model's responses: its tokenizer's, and those of its generation settings.

    Args:
        model: a folder (an adapter's as well: then its base's settings count) or a name on the hub.
        tokenizer: the model's.
    """
    from transformers import GenerationConfig

    from align.models import base_of, config_of

    try:
        own = GenerationConfig.from_pretrained(base_of(model)).eos_token_id
    except (OSError, ValueError):  # a model may come without generation settings; then its configuration says it
        own = config_of(model).get("eos_token_id")
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return tuple(dict.fromkeys(token for token in ids if token is not None))


def stop_token_ids(tokens: Sequence[int | str], tokenizer: Any, key: str = KEY) -> tuple[int, ...]:
    """The ids of tokens that a user names by id or by text.

    Args:
        tokens: as the user wrote them.
        tokenizer: the model's.
        key: where the user wrote them, for errors.

    Raises:
        AlignError: the vocabulary has no such token.
    """
    vocabulary = tokenizer.get_vocab()
    return tuple(dict.fromkeys(_token_id(token, vocabulary, tokenizer, key) for token in tokens))


def _token_id(token: int | str, vocabulary: dict[str, int], tokenizer: Any, key: str) -> int:
    if isinstance(token, int):
        if token in vocabulary.values():
            return token
        ids = f"its ids go from 0 to {max(vocabulary.values())}"
        raise AlignError(f"{key}: the model's tokenizer has no token with the id {token}: {ids}")
    if token in vocabulary:
        return vocabulary[token]
    pieces: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(pieces) == 1 and tokenizer.decode(pieces) == token:  # such as a line break, which vocabularies write in another way
        return pieces[0]
    special = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens})
    raise AlignError(f"{key}: '{token}' is no single token of the model's tokenizer: {nearest(token, special)}")
