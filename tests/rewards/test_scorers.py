"""Scorers against plain transformers, one response at a time; combinations against their formula."""

import math
from dataclasses import replace

import pytest
import torch
import transformers as T
from conftest import FAMILIES, byte_level_tokenizer, random_model

from align.errors import AlignError
from align.rewards import combined, log_sigmoid_centred
from align.rewards.implicit import ResponseScorer
from align.rewards.model_scorers import check_tokenizers
from align.rewards.scorers import ScorerSettings, open_scorer
from align.trees import Node, PreferenceTree


def runs(seed, prompts=3, responses=5):
    g = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return torch.randint(3, 390, (int(torch.randint(low, high, (1,), generator=g)),), generator=g).tolist()

    return [draw(3, 20) for _ in range(prompts)], [[draw(1, 15) for _ in range(responses)] for _ in range(prompts)]


def plain(model, prompt, response):
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logps = model(ids).logits.float().log_softmax(-1)
    return logps[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_scores_are_those_of_one_response_at_a_time(family):
    model = random_model(family)
    prompts, responses = runs(0)
    expected = [[plain(model, p, r) for r in mine] for p, mine in zip(prompts, responses, strict=True)]
    for max_tokens in (16384, 60, 10):  # all in one row; several rows; rows that a single response fills
        found = ResponseScorer(random_model(family), max_tokens).logps(prompts, responses)
        for mine, theirs in zip(found, expected, strict=True):
            for logps, wanted in zip(mine, theirs, strict=True):
                torch.testing.assert_close(logps, wanted, atol=2e-5, rtol=0)


@pytest.fixture
def folders(tmp_path):
    for name, seed in (("policy", 0), ("reference", 1)):
        random_model(seed=seed).save_pretrained(tmp_path / name)
        byte_level_tokenizer().save_pretrained(tmp_path / name)
    return str(tmp_path / "policy"), str(tmp_path / "reference")


def trees(policy, error=0.0):
    prompts, responses = runs(1)
    return [
        PreferenceTree(
            "p",
            tuple(Node("r", token_ids=tuple(r), metadata={"logps": (plain(policy, p, r) + error).tolist()}) for r in mine),
            prompt_token_ids=tuple(p),
        )
        for p, mine in zip(prompts, responses, strict=True)
    ]


@pytest.mark.parametrize("policy_scores", ["rescore", "sampler"])
def test_implicit_reward_is_the_difference_of_log_probs(folders, policy_scores):
    policy, reference = random_model(seed=0), random_model(seed=1)
    found = open_scorer("implicit", ScorerSettings(*folders, dtype="float32", policy_scores=policy_scores)).score(trees(policy, 0.01))
    for tree, scores in zip(trees(policy), found, strict=True):
        for node, score in zip(tree.nodes, scores, strict=True):
            p, r = list(tree.prompt_token_ids), list(node.token_ids)
            logp = plain(policy, p, r).sum().item()
            drawn = logp + 0.01 * len(r)
            assert score.details["sampler_logp"] == pytest.approx(drawn, abs=1e-4)
            used = logp if policy_scores == "rescore" else drawn
            assert score.reward == pytest.approx(used - plain(reference, p, r).sum().item(), abs=1e-4)


@pytest.mark.slow
def test_with_the_samplers_scores_the_policy_runs_on_a_few_prompts_whatever_the_batch(folders):
    settings = ScorerSettings(*folders, dtype="float32", policy_scores="sampler")
    many = [replace(tree, id=f"p{i}") for i in range(40) for tree in trees(random_model(seed=0), 0.01)[:1]]
    scorer = open_scorer("implicit", settings)
    together = scorer.score(many)
    apart = [scorer.score([tree])[0] for tree in many]
    checked = ["policy_logp" in scores[0].details for scores in together]
    assert 0 < sum(checked) < 10
    assert checked == ["policy_logp" in scores[0].details for scores in apart]
    assert together[checked.index(True)][0].details["largest_difference"] == pytest.approx(0.01, abs=1e-4)
    without = replace(many[0], nodes=tuple(replace(node, metadata={}) for node in many[0].nodes))
    with pytest.raises(AlignError, match="the responses carry no log-probs of the sampler"):
        scorer.score([without])


def test_a_reference_with_another_tokenizer_is_refused(folders, tmp_path):
    other = byte_level_tokenizer()
    vocab = other.get_vocab()
    from tokenizers import Tokenizer, models

    swapped = {token: (index + 1) % len(vocab) for token, index in vocab.items()}
    T.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(swapped, [])), eos_token="<|im_end|>").save_pretrained(
        tmp_path / "reference"
    )
    with pytest.raises(AlignError, match=r"has another tokenizer than the policy .*: token 0 is '.*' there and '.*' here"):
        check_tokenizers(*folders)


def test_reward_model_gives_transformers_own_number(tmp_path):
    torch.manual_seed(0)
    config = T.LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_labels=1, pad_token_id=0
    )
    model = T.LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    tree = PreferenceTree([{"role": "user", "content": "What is it?"}], (Node("It is five."), Node("It is a long answer, of course.")))
    settings = ScorerSettings("", "", dtype="float32", options={"model": str(tmp_path), "batch": 2})
    (found,) = open_scorer("reward_model", settings).score([tree])
    for node, score in zip(tree.nodes, found, strict=True):
        text = tokenizer.apply_chat_template([*tree.prompt, {"role": "assistant", "content": node.text}], tokenize=False)
        with torch.no_grad():
            wanted = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0].item()
        assert score.reward == pytest.approx(wanted, abs=1e-5)


def test_length_and_function_scorers():
    tree = PreferenceTree("p", (Node("ab"), Node("abcd")))
    (found,) = open_scorer("length", ScorerSettings("", "", options={"per_character": -0.5})).score([tree])
    assert [s.reward for s in found] == [-1.0, -2.0]
    (found,) = open_scorer("function", ScorerSettings("", "", options={"function": "operator:gt"})).score([tree])
    assert [s.reward for s in found] == [1.0, 1.0]
    with pytest.raises(AlignError, match="expected 'module:name' of something that can be imported"):
        open_scorer("function", ScorerSettings("", "", options={"function": "operator:nothing"}))
    own = open_scorer("align.rewards.scorers:Length", ScorerSettings("", "", options={"per_character": 2.0}))
    assert own.score([tree])[0][1].reward == 8.0
    with pytest.raises(AlignError, match=r"rounds.scorers is 'implicid': did you mean 'implicit'"):
        open_scorer("implicid", ScorerSettings("", ""))


def test_combination_follows_its_formula():
    rewards, reference = [0.2, -1.0, 3.0], [0.0, 1.0, 2.0, 3.0]
    centre = 0.85 * 3  # linear interpolation between the order statistics
    expected = [math.log(1 / (1 + math.exp(-(r - centre)))) for r in rewards]
    assert log_sigmoid_centred(rewards, reference) == pytest.approx(expected)
    assert combined({"a": rewards}, {"a": reference}, {"a": 2.0}) == rewards
    both = combined({"a": rewards, "b": [0.0] * 3}, {"a": reference, "b": [0.0]}, {"a": 1.0, "b": 2.0})
    assert both == pytest.approx([e - 2 * math.log(2) for e in expected])
    assert log_sigmoid_centred([1e4, -1e4], [0.0]) == pytest.approx([0.0, -1e4])
