"""What a model sees of a recipe's first records: the tokens of prompt and responses, and which of them are trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from align.engine.layout import TokenTree
from align.engine.tokenize import prompt_token_ids, tokenize_tree, truncate
from align.errors import AlignError
from align.models import load_tokenizer
from align.recipes import Recipe
from align.trees import PreferenceTree, Rejected, locate_trees
from data_pipelines.rollouts.prompts import asked_as, read_prompts, wants_chat


@dataclass(frozen=True)
class Run:
    """A run of tokens as the model gets it.

    Attributes:
        name: prompt, chosen, rejected, or a node's number in a tree.
        tokens: the text of every token.
        use: what is done with them.
        cut: how many tokens at the end are cut off for length.
    """

    name: str
    tokens: Sequence[str]
    use: str
    cut: int = 0


@dataclass(frozen=True)
class Seen:
    """A record as the model sees it; without runs, why it is left out."""

    where: str
    runs: Sequence[Run] = ()
    reason: str | None = None


READ, RAISED, LOWERED, BOTH, UNUSED = (
    "read, not trained", "trained: made more likely", "trained: made less likely", "trained: above one sibling and below another",
    "read, not trained: in no preference",
)  # fmt: skip
"""What is done with the tokens of a run."""


def as_model_sees(recipe: Recipe, count: int) -> Iterator[Seen]:
    """The first records of what a recipe trains on, or, where it makes its own preferences, the prompts that it samples to.

    Args:
        recipe: without variants, or with: data and model are those of the recipe itself.
        count: how many records.

    Raises:
        AlignError: the model's tokenizer or the data cannot be had.
    """
    model = recipe.model
    if model.name_or_path.startswith("micro:"):
        raise AlignError(f"model.name_or_path '{model.name_or_path}' is trained when the run begins, and its tokenizer with it")
    tokenizer = load_tokenizer(
        model.name_or_path, revision=model.revision, trust_remote_code=model.trust_remote_code, chat_template=model.chat_template
    )
    if recipe.data.train is not None and not recipe.data.train.startswith("micro:"):
        limit = recipe.training.get("max_length", 1024)
        mode = recipe.training.get("truncation_mode", "keep_start")
        records = locate_trees(recipe.data.train, recipe.data.train_split, recipe.data.columns)
        return (_seen(where, item, tokenizer, limit, mode) for where, item in itertools.islice(records, count))
    if recipe.rollouts is None:
        raise AlignError("the recipe names neither data.train nor rollouts.prompts: there is nothing to show")
    return _prompts(recipe, tokenizer, count)


def _seen(where: str, item: PreferenceTree | Rejected, tokenizer: Any, limit: int | None, mode: str) -> Seen:
    if isinstance(item, Rejected):
        return Seen(where, reason=item.reason)
    try:
        whole = tokenize_tree(item, tokenizer)
        kept = truncate(whole, limit, mode)
    except AlignError as error:
        return Seen(where, reason=str(error))
    texts = [[text_of_token(token, tokenizer) for token in run] for run in kept.tokens]
    cut = [len(before) - len(after) for before, after in zip(whole.tokens, kept.tokens, strict=True)]
    names, uses = _names(kept), _uses(kept)
    return Seen(where, [Run(*parts) for parts in zip(names, texts, uses, cut, strict=True)])


def _names(tree: TokenTree) -> list[str]:
    if len(tree.tokens) == 3 and list(tree.edges) in ([(1, 2)], [(2, 1)]):
        return ["prompt", *("chosen" if node == tree.edges[0][0] else "rejected" for node in (1, 2))]
    below = ["" if parent == 0 else f" below node {parent - 1}" for parent in tree.parents[1:]]
    return ["prompt", *(f"node {node}{under}" for node, under in enumerate(below))]


def _uses(tree: TokenTree) -> list[str]:
    chosen, rejected = ({edge[side] for edge in tree.edges} for side in (0, 1))
    uses = [READ]
    for node in range(1, len(tree.tokens)):
        if node in chosen:
            uses.append(BOTH if node in rejected else RAISED)
        else:
            uses.append(LOWERED if node in rejected else UNUSED)
    return uses


def text_of_token(token: int, tokenizer: Any) -> str:
    """A token as text; a byte of a character that several tokens share, as the tokenizer writes it."""
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\ufffd" in text:
        return f"<{tokenizer.convert_ids_to_tokens(token)}>"
    written = tokenizer.convert_ids_to_tokens(token)
    return " " + text if isinstance(written, str) and written.startswith("▁") and not text.startswith(" ") else str(text)


def _prompts(recipe: Recipe, tokenizer: Any, count: int) -> Iterator[Seen]:
    """Prompts as they are asked; those of tasks and problems as the stages of the run will write them."""
    rollouts = recipe.rollouts
    assert rollouts is not None
    chat = wants_chat(rollouts.chat, tokenizer)
    task_name = recipe.method.task_of_questions
    if recipe.code:
        from data_pipelines.code_execution.problems import read_problems

        problems = read_problems(rollouts.prompts, rollouts.prompts_split, format=recipe.code.format, limit=count)
        asked: list[Any] = [problem.ask if rollouts.chat else problem.prefix or problem.ask for problem in problems]
        chat = bool(rollouts.chat)
    elif task_name is not None:
        from data_pipelines.thought_trees.tasks import load_task, read_questions

        task = load_task(task_name)
        questions = read_questions(task, rollouts.prompts, rollouts.prompts_split, limit=count)
        chat = bool(rollouts.chat)
        asked = [task.chat_prompt(question) if chat and not recipe.thoughts else task.prompt(question) for question in questions]
    else:
        found, _ = read_prompts(rollouts.prompts, rollouts.prompts_split, count, rollouts.prompts_column)
        asked = [prompt.prompt for prompt in found]
    for number, prompt in enumerate(asked):
        ids = prompt_token_ids(asked_as(prompt, chat, rollouts.system), tokenizer)
        tokens = [text_of_token(token, tokenizer) for token in ids]
        yield Seen(
            f"{rollouts.prompts} prompt {number}", [Run("prompt", tokens, "read; responses are sampled to it, and these are trained")]
        )
