"""The stages that make the start models of the micro tasks, with their questions, problems, prompts and pairs."""

from __future__ import annotations

from align.recipes import Recipe
from align.runs import Stage
from data_pipelines.rounds import Start

QUESTIONS = {"micro:sums": "sums", "micro:careless": "careless"}
STYLE = "micro:style"
CODE = "micro:code"
_MADE_BY = {
    **dict.fromkeys(QUESTIONS, "data_pipelines.micro.thought_start:prepare"),
    STYLE: "data_pipelines.micro.style_start:prepare",
    CODE: "data_pipelines.micro.code_start:prepare",
}


def start_of(recipe: Recipe, *kinds: str) -> Start:
    """What a run starts from.

    Args:
        recipe: without variants.
        kinds: the micro tasks that the method can start from; a model of any other name is there already.
    """
    name = recipe.model.name_or_path
    if name not in kinds:
        return Start()
    which = {"kind": QUESTIONS[name]} if name in QUESTIONS else {}
    return Start((Stage("start/prepare", _MADE_BY[name], {**which, "seed": recipe.seed}),), kinds)
