"""Scorers that run models: the implicit reward of a policy over its reference, and reward models."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from align.engine.tokenize import prompt_token_ids, render_chat
from align.errors import AlignError
from align.models import load_model, load_tokenizer
from align.rewards.implicit import ResponseScorer
from align.rewards.scorers import Score, ScorerSettings
from align.trees import PreferenceTree, as_messages


class ImplicitReward:
    """DPO's implicit reward, log π_t(y|x) − log π_{t−1}(y|x), summed over response tokens, β left out (DICE, eq. 5).

    Leaves with every score both log-probs, the number of tokens, and how far the sampler's own log-probs are from the
    policy's: the sum, and the largest difference of a token.
    """

    CHECKED = 16  # of so many prompts one is run through the policy in any case, to be compared with the sampler's scores

    def __init__(self, settings: ScorerSettings) -> None:
        """Args: settings, with both models.

        Raises:
            AlignError: a model cannot be loaded, or the two have different tokenizers.
        """
        check_tokenizers(settings.policy, settings.reference)
        self._settings = settings
        self._tokenizer = load_tokenizer(settings.policy)
        self._policy = ResponseScorer(_on_device(load_model(settings.policy, dtype=settings.dtype)), settings.max_tokens)
        self._reference = ResponseScorer(
            _on_device(load_model(settings.reference, dtype=settings.dtype, key="model.reference")), settings.max_tokens
        )

    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """One packed forward a model for as many prompts as fit in a row."""
        prompts = [list(tree.prompt_token_ids or prompt_token_ids(tree.prompt, self._tokenizer, tree.metadata)) for tree in trees]
        responses = [[list(node.token_ids or ()) for node in tree.nodes] for tree in trees]
        reference = self._reference.logps(prompts, responses)
        rescore = self._settings.policy_scores == "rescore"
        run = [i for i, tree in enumerate(trees) if rescore or zlib.crc32(str(tree.id).encode()) % self.CHECKED == 0]
        policy = dict(zip(run, self._policy.logps([prompts[i] for i in run], [responses[i] for i in run]), strict=True))
        found = []
        for i, tree in enumerate(trees):
            mine: Sequence[torch.Tensor | None] = policy.get(i, [None] * len(tree.nodes))
            three = zip(tree.nodes, mine, reference[i], strict=True)
            details = [_implicit(node.metadata.get("logps"), of_policy, of_reference) for node, of_policy, of_reference in three]
            found.append([Score(_reward(one, "policy_logp" if rescore else "sampler_logp"), one) for one in details])
        return found


def _implicit(sampled: Sequence[float] | None, policy: torch.Tensor | None, reference: torch.Tensor) -> dict[str, float]:
    details = {"reference_logp": reference.double().sum().item(), "tokens": float(len(reference))}
    if policy is not None:
        details["policy_logp"] = policy.double().sum().item()
    if sampled is not None:
        drawn = torch.tensor(sampled)
        details["sampler_logp"] = drawn.double().sum().item()
        if policy is not None:
            details["largest_difference"] = (drawn - policy).abs().max().item()
    return details


def _reward(details: Mapping[str, float], policy: str) -> float:
    if policy not in details:
        raise AlignError("policy_scores is 'sampler', but the responses carry no log-probs of the sampler: set policy_scores=rescore")
    return details[policy] - details["reference_logp"]


class RewardModel:
    """A sequence-classification reward model of transformers: one number a conversation.

    Options: `model` (a folder or a name on the hub), `batch` (conversations at a time, default 16), `max_length`.
    """

    def __init__(self, settings: ScorerSettings) -> None:
        """Args: settings, `options.model` names the model."""
        from transformers import AutoModelForSequenceClassification

        name = settings.options.get("model")
        if not name:
            raise AlignError("rounds.scorers: 'reward_model' needs options.model, a sequence-classification model")
        key = "rounds.scorers.reward_model"
        self._model = _on_device(load_model(str(name), dtype=settings.dtype, key=key, kind=AutoModelForSequenceClassification)).eval()
        self._tokenizer = load_tokenizer(str(name), key=key)
        self._batch = int(settings.options.get("batch", 16))
        self._max_length = settings.options.get("max_length")

    @torch.no_grad()
    def score(self, trees: Sequence[PreferenceTree]) -> list[list[Score]]:
        """Whole conversations, right-padded, in batches of like length."""
        texts = [self._text(tree, k) for tree in trees for k in range(len(tree.nodes))]
        rewards = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            inputs = self._tokenizer(
                [texts[i] for i in part], padding=True, padding_side="right", truncation=self._max_length is not None,
                max_length=self._max_length, add_special_tokens=self._tokenizer.chat_template is None, return_tensors="pt",
            ).to(self._model.device)  # fmt: skip
            values = self._model(**inputs).logits[:, 0].float().tolist()
            for i, value in zip(part, values, strict=True):
                rewards[i] = value
        found = iter(rewards)
        return [[Score(next(found)) for _ in tree.nodes] for tree in trees]

    def _text(self, tree: PreferenceTree, index: int) -> str:
        prompt = [{"role": "user", "content": tree.prompt}] if isinstance(tree.prompt, str) else tree.prompt
        response = tree.nodes[index].text
        if self._tokenizer.chat_template is None:
            plain = tree.prompt if isinstance(tree.prompt, str) else "\n".join(str(m["content"]) for m in prompt) + "\n"
            return f"{plain}{response}"
        return render_chat([*prompt, *as_messages(response)], self._tokenizer, tree.metadata)


def check_tokenizers(policy: str, reference: str) -> None:
    """See that two models read the same token ids the same way.

    Raises:
        AlignError: they do not; names a token that differs.
    """
    if policy == reference:
        return
    one = {index: token for token, index in load_tokenizer(policy).get_vocab().items()}
    other = {index: token for token, index in load_tokenizer(reference, key="model.reference").get_vocab().items()}
    for index in sorted(one.keys() & other.keys()):  # a token that only one of them has (padding, say) does no harm
        if one[index] != other[index]:
            raise AlignError(
                f"model.reference '{reference}' has another tokenizer than the policy '{policy}': token {index} is {other[index]!r} there "
                f"and {one[index]!r} here; the implicit reward needs the model that the policy was tuned from"
            )


def _on_device(model: Any) -> Any:
    return model.to("cuda") if torch.cuda.is_available() else model
