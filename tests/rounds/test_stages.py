"""Filter, pair, replay: each rule of the round on small made-up samples."""

import json
import math

import pytest

from align.errors import AlignError
from align.runs import Journal, Task
from align.trees import Edge, Node, PreferenceTree, read_trees, to_record, write_trees
from data_pipelines.implicit_rewards.agreement import agreement, check_sampler
from data_pipelines.implicit_rewards.filtering import filter_samples
from data_pipelines.implicit_rewards.pairing import pair
from data_pipelines.implicit_rewards.replay import mix
from data_pipelines.rollouts.prompts import prompt_id, read_prompts

FILTER = {"drop_truncated": True, "min_characters": 4, "max_characters": 20, "max_tokens": 8, "min_responses": 2}


def node(text, tokens=3, reason="stop"):
    return Node(text, token_ids=(7,) * tokens, metadata={"finish_reason": reason, "logps": [-1.0] * tokens})


def sampled(folder, trees):
    journal = Journal(folder)
    journal.append((tree.id, to_record(tree)) for tree in trees)
    return {"samples": str(folder)}


def test_filter_drops_what_the_released_code_drops_and_counts_it(tmp_path):
    trees = [
        PreferenceTree("p", (node("good one"), node("abc"), node("x" * 21), node("too long", 6), node("cut off", reason="length"), node("fine")), id="a", prompt_token_ids=(1, 2, 3)),
        PreferenceTree("q", (node("good one"), node("abc")), id="b", prompt_token_ids=(1,)),
    ]  # fmt: skip
    filter_samples(Task("filter", tmp_path, FILTER, sampled(tmp_path / "samples", trees)))
    kept, _ = read_trees(tmp_path / "trees.jsonl")
    assert [(tree.id, [n.text for n in tree.nodes]) for tree in kept] == [("a", ["good one", "fine"])]
    dropped = json.loads((tmp_path / "dropped.json").read_text())
    assert dropped["prompts_with_too_few"] == [{"id": "b", "valid": 1}]
    assert dropped == dropped | {
        "responses": 8,
        "kept": 3,
        "too short": 2,
        "too many characters": 1,
        "too many tokens": 1,
        "ended for length": 1,
    }


def test_too_few_valid_responses_everywhere_is_one_sentence(tmp_path):
    trees = [PreferenceTree("p", (node("cut off", reason="length"), node("good one")), id="a", prompt_token_ids=(1,))]
    with pytest.raises(
        AlignError, match=r"none of 1 prompts has 2 valid responses \(2 sampled: 1 ended for length\): raise rollouts.max_new_tokens"
    ):
        filter_samples(Task("filter", tmp_path, FILTER, sampled(tmp_path / "samples", trees)))
    assert (tmp_path / "dropped.json").exists()


PAIR = {
    "scorers": [{"name": "implicit", "weight": 1.0}], "quantile": 0.85, "length_unit": "characters", "length_alpha": 0.0, "pairing": "best_worst",
    "replay": 0.0, "offline_split": "train", "max_rejected_share": 0.1, "seed": 0, "round": 1,
}  # fmt: skip
TEXTS = {"a": ["short", "a longer response", "middling"], "b": ["one", "one", "three"]}
REWARDS = {"a": [0.5, 1.0, -1.0], "b": [0.0, 0.0, 0.0]}


def scored(folder, rewards=REWARDS):
    trees = [
        PreferenceTree(f"prompt {id}", tuple(Node(t, token_ids=tuple(t.encode())) for t in texts), id=id, prompt_token_ids=(1,))
        for id, texts in TEXTS.items()
    ]
    write_trees(trees, folder / "in.jsonl")
    Journal(folder / "scores").append((id, {"implicit": [{"reward": r} for r in values]}) for id, values in rewards.items())
    return {"trees": str(folder / "in.jsonl"), "scores": str(folder / "scores")}


def test_best_against_worst_with_exports_and_statistics(tmp_path):
    pair(Task("pair", tmp_path / "out", PAIR, scored(tmp_path)))
    (tree,), _ = read_trees(tmp_path / "out" / "pairs.jsonl")
    assert [n.text for n in tree.nodes] == ["a longer response", "middling"]
    assert tree.edges == (Edge(0, 1),)
    assert tree.nodes[0].token_ids == tuple(b"a longer response")
    flat = json.loads((tmp_path / "out" / "flat.jsonl").read_text())
    assert flat == {
        "prompt": "prompt a",
        "chosen": "a longer response",
        "rejected": "middling",
        "score_chosen": 1.0,
        "score_rejected": -1.0,
    }
    every, _ = read_trees(tmp_path / "out" / "scored.jsonl")
    assert [n.metadata["reward"] for n in every[0].nodes] == REWARDS["a"]
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["pairs"] == 1
    assert statistics["prompts_without_pair"] == 1
    assert statistics["chosen"]["characters"] == 17


def test_shaping_turns_the_preference_of_long_responses(tmp_path):
    pair(Task("pair", tmp_path / "out", PAIR | {"length_alpha": 0.1}, scored(tmp_path)))
    trees, _ = read_trees(tmp_path / "out" / "pairs.jsonl")
    assert trees[0].nodes[trees[0].edges[0].chosen].text == "short"


def test_several_scorers_are_centred_on_the_rewards_of_the_references_responses(tmp_path):
    """u = log σ(r − r_ref), r_ref the 0.85-quantile of the reference's rewards, summed by weight; DPO's reward is β times the ratio."""
    texts = {"a": ["one", "two", "three"]}
    trees = [PreferenceTree("p", tuple(Node(t, token_ids=tuple(t.encode())) for t in texts["a"]), id="a", prompt_token_ids=(1,))]
    write_trees(trees, tmp_path / "trees.jsonl")
    given = {"implicit": [3.0, -1.0, 8.0], "reward_model": [0.5, 0.1, -0.4]}
    reference = {"implicit": [0.0, -4.0, -2.0, 1.0, -9.0], "reward_model": [0.3, 0.0, -1.0, 0.2, 0.9]}
    for name, scores in (("scores", given), ("baseline", reference)):
        Journal(tmp_path / name).append([("a", {key: [{"reward": r} for r in values] for key, values in scores.items()})])
    scorers = [{"name": "implicit", "weight": 2.0}, {"name": "reward_model", "weight": 1.0}]
    settings = PAIR | {"scorers": scorers, "beta": 0.05, "quantile": 0.85}
    inputs = {name: str(tmp_path / file) for name, file in (("trees", "trees.jsonl"), ("scores", "scores"), ("baseline", "baseline"))}
    pair(Task("pair", tmp_path / "out", settings, inputs))
    (tree,), _ = read_trees(tmp_path / "out" / "scored.jsonl")
    centres = (0.05 * (0.0 + 0.4 * 1.0), 0.3 + 0.4 * 0.6)  # of five values, the 0.85-quantile is 0.4 of the way from the 4th to the 5th
    for node, implicit, model in zip(tree.nodes, given["implicit"], given["reward_model"], strict=True):
        wanted = -2.0 * math.log1p(math.exp(-(0.05 * implicit - centres[0]))) - math.log1p(math.exp(-(model - centres[1])))
        assert node.metadata["reward"] == pytest.approx(wanted)
    Journal(tmp_path / "other").append([("b", {key: [{"reward": 0.0}] for key in given})])
    with pytest.raises(AlignError, match="prompt a has no response of the reference"):
        pair(Task("pair", tmp_path / "again", settings, inputs | {"baseline": str(tmp_path / "other")}))


def test_a_reward_that_one_of_several_scorers_lacks_leaves_the_response_out(tmp_path):
    """Of the reference's responses those with a reward say the quantile; a prompt where none has one is left out."""
    trees = [
        PreferenceTree("p", tuple(Node(t, token_ids=tuple(t.encode())) for t in ("one", "two", "three")), id=id, prompt_token_ids=(1,))
        for id in ("a", "b")
    ]
    write_trees(trees, tmp_path / "trees.jsonl")
    given = {"implicit": [3.0, -1.0, 8.0], "llm": [0.5, 0.1, None]}
    for name, llm in (("scores", None), ("baseline", {"a": [None, 0.2], "b": [None, None]})):
        records = {
            id: {key: [{"reward": r} for r in (llm[id] if llm and key == "llm" else values)] for key, values in given.items()}
            for id in "ab"
        }
        Journal(tmp_path / name).append(records.items())
    settings = PAIR | {"scorers": [{"name": name} for name in given]}
    inputs = {name: str(tmp_path / file) for name, file in (("trees", "trees.jsonl"), ("scores", "scores"), ("baseline", "baseline"))}
    pair(Task("pair", tmp_path / "out", settings, inputs))
    (tree,), _ = read_trees(tmp_path / "out" / "scored.jsonl")
    assert (tree.id, [node.text for node in tree.nodes]) == ("a", ["one", "two"])
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (statistics["responses_without_reward"], statistics["prompts_without_rewards"]) == (2, 1)


def test_all_responses_equal_is_one_sentence(tmp_path):
    same = {id: [1.0] * 3 for id in TEXTS}
    with pytest.raises(AlignError, match="no pair can be made of 2 prompts: in each, all responses have the same reward"):
        pair(Task("pair", tmp_path / "out", PAIR, scored(tmp_path, same)))


def test_the_policys_greedy_response_joins_as_a_leaf_without_an_edge(tmp_path):
    third = PreferenceTree(
        "prompt a", (Node("what the policy says", token_ids=(9,), metadata={"logps": [-1.0]}),), id="a", prompt_token_ids=(1,)
    )
    inputs = scored(tmp_path) | {"exploration": sampled(tmp_path / "explore", [third])["samples"]}
    pair(Task("pair", tmp_path / "out", PAIR, inputs))
    (tree,), _ = read_trees(tmp_path / "out" / "pairs.jsonl")
    assert tree.nodes[2].text == "what the policy says"
    assert len(tree.edges) == 1


def pairs(prompts, text):
    return [PreferenceTree(p, (Node(f"{text} {i}"), Node("worse")), (Edge(0, 1),)) for i, p in enumerate(prompts)]


def test_replay_takes_no_prompt_twice_and_keeps_its_share():
    generated = pairs([f"p{i}" for i in range(20)], "new")
    offline = pairs([f"p{i % 40}" for i in range(200)], "old")  # 40 prompts
    for share, kept, replayed in ((0.5, 20, 20), (0.2, 20, 5), (0.0, 20, 0), (0.75, 10, 30)):
        mixed = mix(generated, offline, share, 0)
        assert len(mixed) == kept + replayed
        assert len({tree.prompt for tree in mixed}) == len(mixed)
        assert sum(tree in generated for tree in mixed) == kept
    assert mix(generated, offline, 0.5, 0) == mix(generated, offline, 0.5, 0) != mix(generated, offline, 0.5, 1)
    with pytest.raises(AlignError, match="expected a share of offline preferences from 0 to below 1"):
        mix(generated, offline, 1.0, 0)


def test_a_text_prompt_and_its_message_are_the_same_prompt():
    generated = [PreferenceTree([{"role": "user", "content": "p0"}], (Node("a"), Node("b")), (Edge(0, 1),))]
    assert [tree.prompt for tree in mix(generated, pairs(["p0", "p1"], "old"), 0.5, 0) if isinstance(tree.prompt, str)] == ["p1"]


def test_too_few_offline_preferences_are_one_sentence():
    with pytest.raises(AlignError, match=r"rounds.replay is 0.5, but data.train has 1 prompts, too few to keep that share"):
        mix(pairs(["p0", "p1"], "new"), pairs(["p2", "p2"], "old"), 0.5, 0)


def test_prompts_are_read_once_each_from_any_set(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"prompt": "a"},
        {"prompt": "b"},
        {"prompt": "a"},
        {"prompt": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, rejected = read_prompts(str(path))
    assert rejected == []
    assert [p.prompt for p in found] == ["a", "b", [{"role": "user", "content": "c"}]]
    assert found[0].id == prompt_id("a")
    assert len(read_prompts(str(path), limit=1)[0]) == 1
    with pytest.raises(AlignError, match="line 1: there is no column 'promt': did you mean 'prompt'"):
        read_prompts(str(path), column="promt")


def test_agreement_tells_precision_from_another_model():
    def response(error, tokens=10):
        return {
            "policy_logp": -5.0,
            "sampler_logp": -5.0 + error * tokens,
            "reference_logp": -6.0,
            "tokens": tokens,
            "largest_difference": error,
        }

    fine = agreement([[response(0.01), response(0.02)], [{"reference_logp": 0.0}]])
    assert fine["responses"] == 2
    assert fine["per_token"] == pytest.approx(0.015)
    assert fine["largest"] == 0.02
    check_sampler(fine)
    with pytest.raises(AlignError, match="differ from the policy's by 1 nats a token: the samples come from another model"):
        check_sampler(agreement([[response(1.0)]]))
    assert agreement([[{"reference_logp": 0.0}]]) == {}
