"""A recipe's `rollouts` in the form that stages read, and what stages make of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.schema import Rollouts
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.protocol import Sampling


def engine_settings(recipe: Recipe) -> dict[str, Any]:
    """For `EngineSettings`.

    Raises:
        AlignError: the chat template's file does not exist.
    """
    rollouts, template = recipe.rollouts, recipe.model.chat_template
    assert rollouts is not None
    if template is not None and not Path(template).is_file():
        raise AlignError(f"model.chat_template '{template}': no such file")
    return {
        "engine": rollouts.engine, "dtype": recipe.model.dtype, "batch": rollouts.batch, "url": rollouts.url,
        "tensor_parallel": recipe.resources.tensor_parallel, "options": rollouts.options,
        "chat_template": None if template is None else Path(template).read_text(encoding="utf-8"),
    }  # fmt: skip


def sampling_settings(rollouts: Rollouts) -> dict[str, Any]:
    """For `sampling_of`."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids")
    return {name: getattr(rollouts, name) for name in names}


def sampling_of(settings: Mapping[str, Any], tokenizer: Any) -> Sampling:
    """The `Sampling` of a stage's settings: lists become tuples, tokens that are named by their texts become ids.

    Args:
        settings: fields of `Sampling`, in JSON types.
        tokenizer: the model's.

    Raises:
        AlignError: a token of `stop_token_ids` is not in the vocabulary.
    """
    ends = stop_token_ids(settings.get("stop_token_ids", ()), tokenizer)
    return Sampling(**{**settings, "stop": tuple(settings.get("stop", ())), "stop_token_ids": ends})
