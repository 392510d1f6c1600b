"""Text trees → token trees. One tokenization of every whole path; nodes are cut where token sequences part.

Tokenizing a node by itself would give other tokens than it has in its path, so it is never done: the boundary below
a node is the longest common token prefix of the node's path and every path that continues it. Token ids that came
with the tree (from a sampler) are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from align.engine.layout import TokenTree
from align.errors import AlignError
from align.trees import ROOT, Message, PreferenceTree, Prompt, as_messages, path_text

Result = TypeVar("Result")
Text = tuple[str, bool]
"""A text, and whether a chat template made it, with all special tokens in it."""
_FEW = 8  # texts that are not worth the tokenizer's threads


def tokenize_tree(tree: PreferenceTree, tokenizer: PreTrainedTokenizerBase) -> TokenTree:
    """Tokenize a tree.

    Args:
        tree: conversational trees go through the tokenizer's chat template (`tools` and `chat_template_kwargs` from
            the tree's metadata).
        tokenizer: with an end-of-sequence token; it follows every complete response.

    Returns:
        Node 0 is the prompt, node i + 1 the tree's node i.

    Raises:
        AlignError: a node has no tokens of its own, only some nodes have token ids, or the tokenizer lacks a chat
            template that the tree needs, or has one that refuses it.
    """
    [tokenized] = tokenize_trees([tree], tokenizer)
    if isinstance(tokenized, AlignError):
        raise tokenized
    return tokenized


def tokenize_trees(trees: Sequence[PreferenceTree], tokenizer: PreTrainedTokenizerBase) -> list[TokenTree | AlignError]:
    """Each tree as `tokenize_tree` gives it, or the error that it raises; all texts go to the tokenizer at once, which has threads."""
    texts = [result_of(_texts, tree, tokenizer) for tree in trees]
    ids = _encoded(dict.fromkeys(text for rendered in texts if not isinstance(rendered, AlignError) for text in rendered), tokenizer)
    return [
        rendered if isinstance(rendered, AlignError) else result_of(_token_tree, tree, [ids[text] for text in rendered], tokenizer)
        for tree, rendered in zip(trees, texts, strict=True)
    ]


def result_of(function: Callable[..., Result], *args: Any) -> Result | AlignError:
    """What a function returns, or the `AlignError` that it raises."""
    try:
        return function(*args)
    except AlignError as error:
        return error


def _texts(tree: PreferenceTree, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """What is to be tokenized of a tree: the prompt, where its ids are not given, and every whole path, where the nodes' are not."""
    given = [node.token_ids is not None for node in tree.nodes]
    if any(given) and not all(given):
        raise AlignError(f"nodes[{given.index(False)}].token_ids is missing while other nodes have theirs: give all or none")
    if all(given):
        return [] if tree.prompt_token_ids is not None else [_path_text(tree, tokenizer, ROOT)]
    return [_path_text(tree, tokenizer, index) for index in range(ROOT, len(tree.nodes))]


def _token_tree(tree: PreferenceTree, ids: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> TokenTree:
    """The tree of the token ids of `_texts`."""
    given = all(node.token_ids is not None for node in tree.nodes)
    tokens = _given_tokens(tree, list(ids[0] if ids else tree.prompt_token_ids or ()), tokenizer) if given else _cut(tree, ids)
    for index, run in enumerate(tokens[1:]):
        if not run:
            raise AlignError(f"nodes[{index}] has no token of its own: it merges with what stands before it")
    return TokenTree(
        tokens=tokens,
        parents=[-1, *(node.parent + 1 for node in tree.nodes)],
        edges=[(edge.chosen + 1, edge.rejected + 1) for edge in tree.edges],
        weights=[edge.weight for edge in tree.edges],
        margins=[edge.margin for edge in tree.edges],
    )


def truncate(tree: TokenTree, max_length: int | None, mode: str = "keep_start") -> TokenTree:
    """Cut a tree to `max_length` tokens on every path.

    "keep_start" cuts the ends of paths; "keep_end" cuts the beginning of the prompt, by the same amount for every
    response, and only then the beginning of responses.

    Raises:
        AlignError: nothing of a node would be left.
    """
    if max_length is None:
        return tree
    depths = _depths(tree)
    lengths = [depth + len(run) for depth, run in zip(depths, tree.tokens, strict=True)]
    if max(lengths) <= max_length:
        return tree
    if mode == "keep_end":
        return _keep_end(tree, max(lengths) - max_length)
    prompt = len(tree.tokens[0])
    if prompt >= max_length:
        raise AlignError(f"`prompt` has {prompt} tokens, which leaves no room for a response: `max_length` is {max_length}")
    for node, depth in enumerate(depths):
        if depth >= max_length and tree.tokens[node]:
            raise AlignError(f"nodes[{node - 1}] begins at token {depth} and would be cut whole: `max_length` is {max_length}")
    return _with_tokens(tree, [list(run[: max_length - depth]) for depth, run in zip(depths, tree.tokens, strict=True)])


def equal_edges(tree: TokenTree) -> list[int]:
    """The numbers of the edges whose two ends are the same tokens: there is nothing to prefer."""
    return [n for n, (chosen, rejected) in enumerate(tree.edges) if list(tree.tokens[chosen]) == list(tree.tokens[rejected])]


def without_edges(tree: TokenTree, numbers: Sequence[int]) -> TokenTree:
    """The tree without the edges of these numbers; its nodes stay."""
    kept = [n for n in range(len(tree.edges)) if n not in numbers]
    return TokenTree(
        tree.tokens, tree.parents, [tree.edges[n] for n in kept], [tree.weights[n] for n in kept], [tree.margins[n] for n in kept]
    )  # fmt: skip


def _keep_end(tree: TokenTree, excess: int) -> TokenTree:
    if any(parent > 0 for parent in tree.parents):
        raise AlignError("`truncation_mode='keep_end'` works for trees of depth one only: use 'keep_start' or a larger `max_length`")
    prompt = len(tree.tokens[0])
    longest = max(len(run) for run in tree.tokens[1:])
    room = prompt + longest - excess
    return _with_tokens(tree, [list(tree.tokens[0][excess:]), *(list(run[max(0, len(run) - room) :]) for run in tree.tokens[1:])])


def _with_tokens(tree: TokenTree, tokens: list[list[int]]) -> TokenTree:
    return TokenTree(tokens, tree.parents, tree.edges, tree.weights, tree.margins)


def _depths(tree: TokenTree) -> list[int]:
    depths: list[int] = []
    for parent in tree.parents:
        depths.append(0 if parent < 0 else depths[parent] + len(tree.tokens[parent]))
    return depths


def _given_tokens(tree: PreferenceTree, prompt: list[int], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    runs = []
    for index, node in enumerate(tree.nodes):
        run = list(node.token_ids or ())
        if tree.is_complete(index) and run[-1:] != [tokenizer.eos_token_id]:
            run.append(tokenizer.eos_token_id)
        runs.append(run)
    return [prompt, *runs]


def _cut(tree: PreferenceTree, ids: list[list[int]]) -> list[list[int]]:
    """Each node's tokens, from those of the prompt and of every whole path."""
    paths = dict(enumerate(ids, ROOT))
    ends = {index: len(ids) for index, ids in paths.items()}  # where each node's tokens end in its own path
    for index, node in enumerate(tree.nodes):
        ancestor = node.parent
        while True:
            ends[ancestor] = min(ends[ancestor], common_prefix(paths[ancestor], paths[index]))
            if ancestor == ROOT:
                break
            ancestor = tree.nodes[ancestor].parent
    runs = [paths[ROOT][: ends[ROOT]]]
    runs += [paths[index][ends[node.parent] : ends[index]] for index, node in enumerate(tree.nodes)]
    return runs


def prompt_token_ids(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any] | None = None) -> list[int]:
    """Token ids of a prompt alone, ready for a response to follow.

    Args:
        prompt: text, or messages (rendered with the generation prompt).
        tokenizer: with a chat template, if the prompt is messages.
        metadata: the tree's, for `tools` and `chat_template_kwargs`.

    Raises:
        AlignError: messages, but no chat template, or one that refuses them.
    """
    text = _prompt_text(prompt, tokenizer, metadata or {})
    return _encoded([text], tokenizer)[text]


def _prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]) -> Text:
    return (prompt, False) if isinstance(prompt, str) else (_opening(prompt, tokenizer, metadata), True)


def _path_text(tree: PreferenceTree, tokenizer: PreTrainedTokenizerBase, index: int) -> Text:
    """The whole path to node `index`; the prompt alone for `ROOT`."""
    path = tree.path(index)
    if not path:
        return _prompt_text(tree.prompt, tokenizer, tree.metadata)
    complete = tree.is_complete(index)
    if tree.conversational:
        return render_path(tree, tokenizer, path, complete), True
    text = tree.prompt + path_text(tree, path)  # type: ignore[operator]
    eos: str = tokenizer.eos_token
    return text + eos if complete and not text.endswith(eos) else text, False


def _encoded(texts: Collection[Text], tokenizer: PreTrainedTokenizerBase) -> dict[Text, list[int]]:
    """The token ids of each text."""
    ids: dict[Text, list[int]] = {}
    for templated, options in ((True, {"add_special_tokens": False}), (False, {})):
        some = [text for text, made_by_template in texts if made_by_template is templated]
        if len(some) < _FEW:
            encoded = [tokenizer(text, **options)["input_ids"] for text in some]
        else:
            encoded = tokenizer(some, **options)["input_ids"]
        ids |= {(text, templated): run for text, run in zip(some, encoded, strict=True)}
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    for (text, templated), run in ids.items():
        if not templated and run and run[-1] == eos_id and not text.endswith(eos):
            ids[text, templated] = run[:-1]  # a tokenizer that ends everything it sees
    return ids


def render_path(tree: PreferenceTree, tokenizer: PreTrainedTokenizerBase, path: list[int], complete: bool) -> str:
    """A conversational tree's prompt with the response that a path of nodes makes, as text: an unfinished one has no end of turn."""
    if complete:
        response = as_messages(tree.nodes[path[0]].text if len(path) == 1 else path_text(tree, path))
        return render_chat([*tree.prompt, *response], tokenizer, tree.metadata)
    return _opening(tree.prompt, tokenizer, tree.metadata) + path_text(tree, path)  # type: ignore[arg-type]


def _opening(prompt: list[Message], tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]) -> str:
    return render_chat(prompt, tokenizer, metadata, add_generation_prompt=True)


def render_chat(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any] | None = None, **options: Any
) -> str:
    """Messages as text, by the tokenizer's chat template.

    Args:
        messages: of prompt and response.
        tokenizer: with a chat template.
        metadata: a tree's, for `tools` (schemas, or their JSON text) and `chat_template_kwargs`.
        options: further arguments of `apply_chat_template`.

    Raises:
        AlignError: there is no template, or it refuses these messages; with what it says.
    """
    metadata = metadata or {}
    tools, further = metadata.get("tools"), metadata.get("chat_template_kwargs") or {}
    if tokenizer.chat_template is None and "chat_template" not in further:
        raise AlignError("`prompt` is a list of messages, but the tokenizer has no chat template to render it")
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, tools=tools, **further, **options))
    except Exception as error:  # a template is a program: it may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise AlignError(
            f"the chat template does not take these messages ({', '.join(str(m.get('role')) for m in messages)}): {said}"
        ) from error


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many leading tokens, or characters, two sequences share.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:  # they agree below `low`, and part below `high`
        middle = (low + high) // 2 + 1
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
