"""A recipe's `rollouts` in the form that stages read, and what stages make of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.recipes import Recipe
from align.recipes.schema import Rollouts
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import EngineSettings
from data_pipelines.rollouts.protocol import Sampling
from data_pipelines.rollouts.settings import SamplingSettings


def engine_settings(recipe: Recipe) -> EngineSettings:
    """The engine that a recipe samples with.

    Raises:
        AlignError: the chat template's file does not exist.
    """
    rollouts = recipe.section(Rollouts)
    own: dict[str, Any] = {"batch": rollouts.batch} if rollouts.engine == "transformers" else {}
    if rollouts.engine == "server" and rollouts.url is not None:
        own = {"url": rollouts.url}
    else:
        own |= {"tensor_parallel": recipe.resources.tensor_parallel, "options": rollouts.options}
    return EngineSettings(rollouts.engine, recipe.model.dtype, chat_template=chat_template(recipe), **own)


def beside(recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of its engine that holds for another one, which grades or judges, too: `tensor_parallel`, and as
    `engine_options` `rollouts.options` where both engines are of one kind. What is at its default is left out.

    Args:
        recipe: with `rollouts`.
        options: of the scorer or judge: `engine`, its kind, and `url`, of a running server, which is set up already.
    """
    engine = options.get("engine", "transformers")
    if options.get("url") is not None:
        return {}
    rollouts, found = recipe.section(Rollouts), dict[str, Any]()
    if engine != "transformers" and recipe.resources.tensor_parallel > 1:
        found["tensor_parallel"] = recipe.resources.tensor_parallel
    if engine == rollouts.engine and rollouts.options:
        found["engine_options"] = rollouts.options
    return found


def chat_template(recipe: Recipe) -> str | None:
    """The text of the chat template that takes the place of the tokenizer's, None where the tokenizer's own stays.

    Raises:
        AlignError: its file does not exist.
    """
    template = recipe.model.chat_template
    if template is not None and not Path(template).is_file():
        raise AlignError(f"model.chat_template '{template}': no such file")
    return None if template is None else Path(template).read_text(encoding="utf-8")


def sampling_settings(rollouts: Rollouts) -> SamplingSettings:
    """How a recipe's responses are drawn."""
    return SamplingSettings(
        rollouts.max_new_tokens, rollouts.temperature, rollouts.top_p, rollouts.top_k, rollouts.min_p, tuple(rollouts.stop),
        tuple(rollouts.stop_token_ids),
    )  # fmt: skip


def sampling_of(settings: SamplingSettings, tokenizer: Any) -> Sampling:
    """The `Sampling` of a stage's settings: tokens that are named by their texts become ids.

    Args:
        settings: of the stage.
        tokenizer: the model's.

    Raises:
        AlignError: a token of `stop_token_ids` is not in the vocabulary.
    """
    return Sampling(**{**vars(settings), "stop_token_ids": stop_token_ids(settings.stop_token_ids, tokenizer)})
