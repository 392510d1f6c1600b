"""A recipe's `rollouts` in the form that stages read."""

from __future__ import annotations

from typing import Any

from align.recipes import Recipe
from align.recipes.schema import Rollouts


def engine_settings(recipe: Recipe) -> dict[str, Any]:
    """For `EngineSettings`."""
    rollouts = recipe.rollouts
    assert rollouts is not None
    return {
        "engine": rollouts.engine, "dtype": recipe.model.dtype, "batch": rollouts.batch, "url": rollouts.url,
        "tensor_parallel": recipe.resources.tensor_parallel, "options": rollouts.options,
    }  # fmt: skip


def sampling_settings(rollouts: Rollouts) -> dict[str, Any]:
    """For `Sampling`."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "stop")
    return {name: getattr(rollouts, name) for name in names}
