"""What a preference set gives a round beside the policy's samples: its responses as candidates, or its pairs as they are (SELM)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean

from transformers import PreTrainedTokenizerBase

from align.engine.tokenize import tokenize_tree
from align.errors import AlignError
from align.models import load_tokenizer
from align.runs import Task, write_json
from align.trees import Message, Node, PreferenceTree, Rejected, check_rejected, write_pairs, write_trees
from data_pipelines.implicit_rewards.pairing import asked_alike, read_offline
from data_pipelines.implicit_rewards.responses import characters
from data_pipelines.implicit_rewards.settings import OfflineSettings, TakeSettings
from data_pipelines.rollouts.prompts import check_system, prompt_id, read_prompts, wants_chat


def take_pairs(task: Task) -> None:
    """Make a round's preferences of a preference set's own pairs: those of the round's prompts, asked as the policy is in other rounds.

    Inputs: `offline`, the preference set; `prompts`; `model`, the policy, whose tokenizer it needs. Settings: `TakeSettings`. Outputs as
    those of `pair`: `pairs.jsonl`, `flat.jsonl`, `scored.jsonl` (the same trees, nothing was scored) and `statistics.json`.

    Raises:
        AlignError: the preference set has none of these prompts, or the system message does not reach the model.
    """
    settings = task.read(TakeSettings)
    prompts, _ = read_prompts(task.inputs["prompts"], **vars(settings.source))
    wanted = {prompt.id for prompt in prompts[settings.part :: settings.parts]}
    trees = [tree for tree in read_offline(task, "offline", settings) if prompt_id(tree.prompt) in wanted]
    if not trees:
        raise AlignError(f"data.train has no pair to any of this round's {len(wanted)} prompts, which rounds.candidates: data trains on")
    tokenizer = load_tokenizer(task.inputs["model"])
    if settings.chat_template is not None:
        tokenizer.chat_template = settings.chat_template
    chat = wants_chat(settings.chat, tokenizer)
    check_system(settings.system, tokenizer, chat or all(tree.conversational for tree in trees))
    trees = [asked_alike(tree, chat, settings.system) for tree in trees]
    write_trees(trees, task.folder / "pairs.jsonl")
    write_pairs(trees, task.folder / "flat.jsonl")
    write_trees(trees, task.folder / "scored.jsonl")
    ends = {side: [tree.nodes[getattr(edge, side)] for tree in trees for edge in tree.edges] for side in ("chosen", "rejected")}
    lengths = {side: mean(characters(node) for node in nodes) for side, nodes in ends.items()}
    write_json(
        task.folder / "statistics.json",
        {
            "prompts": len(wanted), "responses": 0, "pairs": len(ends["chosen"]), "generated": 0, "replayed": len(trees), "alpha": 0.0,
            "mean_length_difference": lengths["chosen"] - lengths["rejected"], "rewards": {},
            **{side: {"characters": length} for side, length in lengths.items()},
        },
    )  # fmt: skip


def responses_by_prompt(task: Task, settings: OfflineSettings, samples: Sequence[PreferenceTree]) -> dict[str, list[Node]]:
    """The responses that a preference set has to the prompts that were sampled, ready to stand beside the samples.

    Args:
        task: with the inputs `data` and `model`.
        settings: how the preference set is read.
        samples: the policy's, with the tokens of their prompts.

    Returns:
        By the id of the prompt, each text once. Responses that cannot follow the prompt's tokens are kept in
        `unused.jsonl` with the reason.

    Raises:
        AlignError: too large a share of them cannot be used.
    """
    tokenizer = load_tokenizer(task.inputs["model"])
    given: dict[str, list[PreferenceTree]] = {}
    for tree in read_offline(task, "data", settings):
        given.setdefault(prompt_id(tree.prompt), []).append(tree)
    nodes: dict[str, list[Node]] = {}
    unused: list[Rejected] = []
    for sample in samples:
        responses = [_response(node) for tree in given.get(str(sample.id), ()) for node in tree.nodes]
        for response in {json.dumps(response): response for response in responses}.values():
            candidate = as_candidate(sample, response, tokenizer)
            if isinstance(candidate, Node):
                nodes.setdefault(str(sample.id), []).append(candidate)
            else:
                unused.append(candidate)
    check_rejected(sum(map(len, nodes.values())), unused, task.folder / "unused.jsonl", settings.max_rejected_share)
    return nodes


def as_candidate(sample: PreferenceTree, text: str | list[Message], tokenizer: PreTrainedTokenizerBase) -> Node | Rejected:
    """A response of the data set as if it had been sampled: its tokens, with the end token, as they follow the prompt's.

    Args:
        sample: the prompt, as it was put to the policy.
        text: the response, or its messages.
        tokenizer: the policy's.
    """
    record = {"prompt": sample.prompt, "response": text}
    try:
        prompt, response = tokenize_tree(PreferenceTree(sample.prompt, (Node(text),), metadata=sample.metadata), tokenizer).tokens
    except AlignError as error:
        return Rejected(str(sample.id), str(error), record)
    path, start = [*prompt, *response], len(sample.prompt_token_ids or ())
    if tuple(path[:start]) != tuple(sample.prompt_token_ids or ()) or len(path) == start:
        return Rejected(str(sample.id), "its tokens do not begin where the prompt's end", record)
    return Node(text, token_ids=tuple(path[start:]), complete=False, metadata={"of": "data"})  # the end token stands among its own


def _response(node: Node) -> str | list[Message]:
    """What a response says: its text, also that of a lone message with nothing but text; else its messages."""
    if isinstance(node.text, str):
        return node.text
    only = node.text[0]
    plain = len(node.text) == 1 and isinstance(only.get("content"), str) and not only.get("tool_calls")
    return str(only["content"]) if plain else node.text
