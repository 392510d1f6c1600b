"""Trees of chat messages → pairs that trl reads token for token as they are trained here, unfinished steps included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.engine.tokenize import common_prefix, render_path
from align.trees import PreferenceTree, pairs_from_tree

AS_IT_STANDS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A chat template for messages that are rendered already."""


def rendered_pairs(tree: PreferenceTree, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """Every edge of a conversational tree as a pair of rendered messages; of another tree, as `pairs_from_tree` gives it.

    trl ends every response, and begins an assistant's turn anew after a prompt that ends with one; a step in the middle of a
    response is neither. So prompt and path are rendered here, by the tokenizer's template, and the record brings a template of its
    own in `chat_template_kwargs` that leaves them as they are: any trainer that hands it on has the same tokens.

    Args:
        tree: its sampled token ids, if any, are not used.
        tokenizer: of the model to be trained.

    Raises:
        AlignError: the template refuses the messages.
    """
    if not tree.conversational:
        yield from pairs_from_tree(tree)
        return
    for edge, record in zip(tree.edges, pairs_from_tree(tree), strict=True):
        prompt = render_path(tree, tokenizer, tree.path(tree.nodes[edge.chosen].parent), complete=False)
        wholes = [render_path(tree, tokenizer, tree.path(end), tree.is_complete(end)) for end in (edge.chosen, edge.rejected)]
        begin = min(common_prefix(prompt, whole) for whole in wholes)
        chosen, rejected = ([{"role": "assistant", "content": whole[begin:]}] for whole in wholes)
        record |= {"prompt": [{"role": "user", "content": prompt[:begin]}], "chosen": chosen, "rejected": rejected}
        yield {name: value for name, value in record.items() if name != "tools"} | {"chat_template_kwargs": {"chat_template": AS_IT_STANDS}}
