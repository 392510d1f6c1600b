"""Filter, pairs and mixture of a round against the rules of DICE's released code, written out again here, on inputs of five shapes.

Where that code draws at random, sizes and properties are compared; all else is compared item by item.
"""

import json
import math
import random

import pytest

from align.rewards import fit_alpha, mean_difference
from align.runs import Journal, Task
from align.trees import Edge, Node, PreferenceTree, read_trees, to_record, write_trees
from data_pipelines.implicit_rewards.filtering import filter_samples
from data_pipelines.implicit_rewards.pairing import pair
from data_pipelines.implicit_rewards.replay import mix, sizes
from data_pipelines.rollouts.prompts import prompt_id

FILTER = {"drop_truncated": True, "min_characters": 4, "max_characters": 6699, "max_tokens": 4095, "min_responses": 8}
SHAPES = ("pool = prompts", "pool apart", "pool too small", "few generated", "ties, duplicates and white space")
WORDS = ["a", "bc", "\n", " ", "def", "ghij. ", "klm\t", "no\n\n", "p" * 40, "é" * 7]


class Released:
    """The released code's rules, on rows of {"prompt", "response", "stop_reason", "score"}, one list a sampling pass."""

    @staticmethod
    def filtered(passes):
        """What is sampled is stripped; a row stays if it ended on its own and has more than 3 and fewer than 6,700 characters."""
        kept = []
        for rows in passes:
            stripped = [{**row, "response": row["response"].strip()} for row in rows]
            kept.append([r for r in stripped if r["stop_reason"] != "length" and 3 < len(r["response"]) < 6700])
        return kept

    @staticmethod
    def paired(passes, alpha, least):
        """Per prompt, in the order of passes: upwards by score − α · characters; the last is chosen, the first rejected."""
        by_prompt = {}
        for rows in passes:
            for row in rows:
                shaped = row["score"] - alpha * len(row["response"])
                by_prompt.setdefault(row["prompt"], []).append((shaped, row["response"]))
        pairs = {}
        for prompt, responses in by_prompt.items():
            if len(responses) >= least:
                upwards = sorted(range(len(responses)), key=lambda i, r=responses: r[i][0])  # stable
                pairs[prompt] = (responses[upwards[-1]], responses[upwards[0]])
        return pairs

    @classmethod
    def swept(cls, passes, least):
        """α on a grid of 0.001 from 0, until |mean of |y⁺| − |y⁻|| is above the smallest so far; the first of the smallest."""
        seen = []
        for step in range(1000):
            pairs = cls.paired(passes, step * 0.001, least).values()
            seen.append(abs(sum(len(chosen) - len(rejected) for (_, chosen), (_, rejected) in pairs) / len(pairs)))
            if seen[-1] > min(seen):
                break
        return seen.index(min(seen)) * 0.001, min(seen)

    @staticmethod
    def mixed_sizes(generated, pool, gamma):
        """Numbers of generated and of offline preferences in the mixture."""
        from_generated = min(int(pool * (1 - gamma)), generated)
        return from_generated, int(gamma * from_generated / (1 - gamma))


def passes_of(shape, seed=0):
    """Prompts of the run, and 16 sampling passes over them, in the released code's form."""
    rng = random.Random(f"{shape} {seed}")
    count = {"few generated": 12, "pool too small": 60}.get(shape, 40)
    prompts = [f"prompt {i}" for i in range(count)]
    passes = []
    for _ in range(16):
        rows = []
        for prompt in prompts:
            text = "".join(rng.choices(WORDS, k=rng.randint(0, 25)))
            score = rng.gauss(0, 3) + 0.02 * len(text)
            if shape.startswith("ties"):
                text = rng.choice(
                    ["same text", "same text ", " Same text", "other\n", "  ", "abc ", "abcd", "x" * 6699, "x" * 6700, "\n" + "y" * 6699]
                )
                score = float(rng.randint(-1, 1))
            rows.append({"prompt": prompt, "response": text, "stop_reason": rng.choice(["stop"] * 9 + ["length"]), "score": score})
        passes.append(rows)
    return prompts, passes


def as_trees(prompts, passes):
    """The same samples in ours: a tree per prompt, a node per pass. Scores travel in the nodes, to be journalled below."""
    trees = []
    for place, prompt in enumerate(prompts):
        nodes = []
        for rows in passes:
            row = rows[place]
            ids = tuple(row["response"].encode()[:50]) or (1,)
            nodes.append(Node(row["response"], token_ids=ids, metadata={"finish_reason": row["stop_reason"], "score": row["score"]}))
        trees.append(PreferenceTree(prompt, tuple(nodes), id=prompt_id(prompt), prompt_token_ids=(1, 2)))
    return trees


def pool_of(shape, prompts):
    if shape in ("pool = prompts", "ties, duplicates and white space"):
        names = prompts
    elif shape == "pool too small":
        names = [*prompts[:6], "other 1", "other 2"]
    else:
        names = [f"other {i}" for i in range(3 * len(prompts))]
    return [PreferenceTree(name, (Node("good one"), Node("bad one")), (Edge(0, 1),)) for name in names]


def filtered_and_scored(folder, prompts, passes):
    journal = Journal(folder / "samples")
    journal.append((tree.id, to_record(tree)) for tree in as_trees(prompts, passes))
    filter_samples(Task("filter", folder, FILTER, {"samples": str(folder / "samples")}))
    trees, _ = read_trees(folder / "trees.jsonl")
    Journal(folder / "scores").append((t.id, {"implicit": [{"reward": n.metadata["score"]} for n in t.nodes]}) for t in trees)
    return trees


def paired(folder, prompts, passes, alpha, replay=0.0, pool=()):
    trees = filtered_and_scored(folder, prompts, passes)
    inputs = {"trees": str(folder / "trees.jsonl"), "scores": str(folder / "scores")}
    if pool:
        write_trees(pool, folder / "offline.jsonl")
        inputs["offline"] = str(folder / "offline.jsonl")
    settings = {
        "scorers": [{"name": "implicit", "weight": 1.0}], "length_unit": "characters", "length_alpha": alpha, "pairing": "best_worst",
        "replay": replay, "offline_split": "train", "max_rejected_share": 0.1, "seed": 5, "round": 1,
    }  # fmt: skip
    pair(Task("pair", folder / "pair", settings, inputs))
    return trees, read_trees(folder / "pair" / "pairs.jsonl")[0], json.loads((folder / "pair" / "statistics.json").read_text())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_filter_keeps_what_the_released_code_keeps(shape, tmp_path):
    prompts, passes = passes_of(shape)
    wanted = {}
    for rows in Released.filtered(passes):
        for row in rows:
            wanted.setdefault(row["prompt"], []).append(row["response"])
    trees = filtered_and_scored(tmp_path, prompts, passes)
    found = {tree.prompt: [node.text.strip() for node in tree.nodes] for tree in trees}
    assert found == {prompt: texts for prompt, texts in wanted.items() if len(texts) >= 8}


@pytest.mark.parametrize("alpha", [0.0, 0.017, 0.4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
def test_at_one_alpha_the_pairs_are_the_released_codes(shape, alpha, tmp_path):
    prompts, passes = passes_of(shape)
    theirs = Released.paired(Released.filtered(passes), alpha, 8)
    preferred = {prompt: (chosen[1], rejected[1]) for prompt, (chosen, rejected) in theirs.items() if chosen[0] > rejected[0]}
    wanted = {prompt: texts for prompt, texts in preferred.items() if texts[0] != texts[1]}  # equal responses are no pair in ours
    assert len(wanted) > len(theirs) / 2
    _, pairs, statistics = paired(tmp_path, prompts, passes, alpha)
    found = {t.prompt: tuple(t.nodes[end].text.strip() for end in (t.edges[0].chosen, t.edges[0].rejected)) for t in pairs}
    assert found == wanted
    gaps = [len(chosen) - len(rejected) for chosen, rejected in wanted.values()]
    assert statistics["mean_length_difference"] == pytest.approx(sum(gaps) / len(gaps))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.slow
def test_the_fitted_alpha_is_the_released_codes_or_a_better_one(shape, seed, tmp_path):
    prompts, passes = passes_of(shape, seed)
    theirs, difference = Released.swept(Released.filtered(passes), 8)
    _, pairs, statistics = paired(tmp_path, prompts, passes, "fit")
    ours = abs(statistics["mean_length_difference"])
    assert ours <= difference + 1e-9
    if ours == pytest.approx(difference):
        assert statistics["alpha"] == pytest.approx(theirs)
        wanted = Released.paired(Released.filtered(passes), theirs, 8)
        assert {t.prompt: t.nodes[t.edges[0].chosen].text.strip() for t in pairs} == {p: chosen[1] for p, (chosen, _) in wanted.items()}


def test_of_equally_good_alphas_it_is_the_released_codes():
    scores, lengths = [[3.0, 1.0], [2.0, 0.0]], [[10, 10], [7, 9]]  # no α up to 1 below makes these pairs more equal in length
    fit = fit_alpha(scores, lengths)
    assert (fit.alpha, fit.mean_difference) == (0.0, mean_difference(scores, lengths, 0.0))


@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
def test_the_mixture_has_the_released_codes_sizes_and_its_share_exactly(shape, gamma, tmp_path):
    prompts, passes = passes_of(shape)
    pool = pool_of(shape, prompts)
    _, pairs, statistics = paired(tmp_path, prompts, passes, 0.0, gamma, pool)
    generated = [tree for tree in pairs if "good one" not in [node.text for node in tree.nodes]]
    made = statistics["pairs"]
    wanted = Released.mixed_sizes(made, len(pool), gamma)
    assert (len(generated), len(pairs) - len(generated)) == wanted == (statistics["generated"], statistics["replayed"])
    assert wanted[0] > 0
    assert abs(wanted[1] - gamma * sum(wanted)) < 1  # the share, but for the rounding of one pair
    assert len({tree.prompt for tree in pairs}) == len(pairs)
    if shape == "few generated":
        assert len(generated) == made or gamma == 0.75


@pytest.mark.parametrize("gamma", [0.1, 0.2, 0.3, 1 / 3, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_sizes_are_the_released_codes_for_any_numbers(gamma):
    for generated, pool in [(1000, 1000), (10_000, 10_000), (9_813, 10_000), (37, 10_000), (1000, 64), (224, 380), (1, 20)]:
        found = sizes(generated, pool, gamma)
        assert found == Released.mixed_sizes(generated, pool, gamma)
        assert math.isclose(found[1], gamma * sum(found), abs_tol=1)


def trees_named(names, text):
    return [PreferenceTree(name, (Node(f"{text} {name}"), Node("worse")), (Edge(0, 1),)) for name in names]


@pytest.mark.slow
def test_a_thousand_of_each_to_the_same_prompts_become_five_hundred_and_five_hundred():
    names = [f"p{i}" for i in range(1000)]
    generated, offline = trees_named(names, "new"), trees_named(names, "old")
    mixed = mix(generated, offline, 0.5, 3)
    assert sum(tree in generated for tree in mixed) == sum(tree in offline for tree in mixed) == 500
    assert len({tree.prompt for tree in mixed}) == 1000
    others = mix(generated, offline, 0.5, 4)
    assert {tree.prompt for tree in mixed if tree in generated} != {tree.prompt for tree in others if tree in generated}
    first_hundred = {f"p{i}" for i in range(100)}
    assert 20 < sum(tree in generated and tree.prompt in first_hundred for tree in mixed) < 80  # drawn from all of them


def test_another_round_draws_other_preferences(tmp_path):
    prompts, passes = passes_of("pool apart")
    pool, drawn = pool_of("pool apart", prompts), []
    for number in (1, 2):
        filtered_and_scored(tmp_path / str(number), prompts, passes)
        write_trees(pool, tmp_path / "offline.jsonl")
        folder = tmp_path / str(number)
        inputs = {"trees": str(folder / "trees.jsonl"), "scores": str(folder / "scores"), "offline": str(tmp_path / "offline.jsonl")}
        settings = {
            "scorers": [{"name": "implicit", "weight": 1.0}], "length_unit": "characters", "length_alpha": 0.0, "pairing": "best_worst",
            "replay": 0.5, "offline_split": "train", "max_rejected_share": 0.1, "seed": 5, "round": number,
        }  # fmt: skip
        pair(Task("pair", folder / "pair", settings, inputs))
        drawn.append({t.prompt for t in read_trees(folder / "pair" / "pairs.jsonl")[0] if t.prompt.startswith("other")})
    assert drawn[0] != drawn[1]
    assert len(drawn[0]) == len(drawn[1])


def test_offline_preferences_are_asked_as_the_samples_were(tmp_path):
    """Samples of a conversation with a system turn: offline text prompts become messages, with that turn, and the same prompt stays one."""
    system = [{"role": "system", "content": " "}]
    nodes = (Node("good", token_ids=(1,)), Node("worse", token_ids=(2,)))
    trees = [
        PreferenceTree([*system, {"role": "user", "content": name}], nodes, id=prompt_id(name), prompt_token_ids=(3,))
        for name in ("p0", "p1")
    ]
    write_trees(trees, tmp_path / "trees.jsonl")
    Journal(tmp_path / "scores").append((t.id, {"implicit": [{"reward": 1.0}, {"reward": 0.0}]}) for t in trees)
    offline = trees_named(["p0", "p1", "p2"], "old")
    offline.append(PreferenceTree([{"role": "user", "content": "p3"}], (*nodes[:1], Node("x", token_ids=(4,))), (Edge(0, 1),)))
    write_trees(offline, tmp_path / "offline.jsonl")
    settings = {
        "scorers": [{"name": "implicit", "weight": 1.0}], "length_unit": "characters", "length_alpha": 0.0, "pairing": "best_worst",
        "replay": 0.5, "offline_split": "train", "max_rejected_share": 0.1, "system": " ", "seed": 5, "round": 1,
    }  # fmt: skip
    inputs = {name: str(tmp_path / file) for name, file in (("trees", "trees.jsonl"), ("scores", "scores"), ("offline", "offline.jsonl"))}
    pair(Task("pair", tmp_path / "pair", settings, inputs))
    mixed, _ = read_trees(tmp_path / "pair" / "pairs.jsonl")
    assert len(mixed) == 4
    assert sorted(tree.prompt[1]["content"] for tree in mixed) == ["p0", "p1", "p2", "p3"]
    assert all(tree.prompt[0] == system[0] for tree in mixed)
