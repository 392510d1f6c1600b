"""From completions to thoughts: cut at the step's end in token space, near-empty and equal ones merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_pipelines.rollouts.protocol import Completion
from data_pipelines.thought_trees.tasks import ThoughtTask


@dataclass(frozen=True)
class Thought:
    """A thought as the model wrote it.

    Attributes:
        text: unchanged; a marker at its end belongs to it.
        token_ids: the sampler's, up to where the text ends.
        ended: the response ends with it: an end token or an end text.
        whole: it came to its end; False where its length was used up.
        copies: how often it was sampled, up to blanks and case.
    """

    text: str
    token_ids: tuple[int, ...]
    ended: bool = False
    whole: bool = True
    copies: int = 1


def thought_of(completion: Completion, task: ThoughtTask, tokenizer: Any) -> Thought:
    """Cut a completion to a thought.

    A marker stays, with all of the token that holds it; a text that begins the next step or ends the response is cut off
    with the tokens that hold it. So the tokens are always the first ones that were sampled, and what follows is sampled
    from just these.
    """
    ids, text = completion.token_ids, completion.text
    if completion.stop_text is None:
        ended = completion.finish_reason == "stop"
        return Thought(text, ids, ended=ended, whole=ended)
    if completion.stop_text in task.markers:
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        return Thought(whole, ids, ended=any(end in whole for end in task.end))
    while ids and len(tokenizer.decode(ids, skip_special_tokens=True)) > len(text):
        ids = ids[:-1]
    return Thought(tokenizer.decode(ids, skip_special_tokens=True), ids, ended=completion.stop_text in task.end)


def begun(thought: Thought, token_ids: tuple[int, ...], text: str) -> Thought:
    """A thought whose beginning was given: text and tokens with it; unchanged where nothing was given, or nothing was said after it.

    Args:
        thought: what was sampled.
        token_ids: tokens of the beginning.
        text: its text.
    """
    if not token_ids or not thought.text.strip():
        return thought
    return replace(thought, text=text + thought.text, token_ids=token_ids + thought.token_ids)


def worth_keeping(thoughts: Sequence[Thought], min_characters: int, dropped: Counter[str]) -> list[Thought]:
    """The distinct, whole, non-empty ones of a path's thoughts; the first of equal ones stands for them.

    Args:
        thoughts: siblings.
        min_characters: shortest, blanks at the ends not counted.
        dropped: counts the others by reason.
    """
    found: dict[str, Thought] = {}
    for thought in thoughts:
        key = " ".join(thought.text.split()).lower()
        if not thought.whole:
            dropped["cut for length before a step marker"] += 1
        elif len(key) < min_characters or not thought.token_ids:
            dropped["near-empty"] += 1
        elif key in found:
            found[key] = replace(found[key], copies=found[key].copies + 1)
            dropped["duplicates"] += 1
        else:
            found[key] = thought
    return list(found.values())
