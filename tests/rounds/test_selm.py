"""SELM (arXiv 2405.19332): in every round the sampler of y_s and the reference of the training are one model."""

import json
import math

import pytest
import torch
import yaml
from conftest import align, byte_level_tokenizer
from tiny import OTHERS, WORDS, load, logps_of, write_models, write_recipe

from align import plans, recipes
from align.errors import AlignError
from align.runs import External, Output, Task
from align.trees import Edge, Node, PreferenceTree, read_trees, to_record, write_trees
from data_pipelines.implicit_rewards.data_responses import as_candidate, take_pairs
from data_pipelines.implicit_rewards.filtering import filter_samples
from data_pipelines.rollouts.prompts import asked_as
from data_pipelines.rollouts.samples import read_samples

FIRST = {"rounds.candidates": "data", "rounds.exploration": "none", "training.loss_type": ["sigmoid"]}


def stages(**changes):
    """The stages of the shipped recipe by name, with dotted changes."""
    recipe = recipes.changed(recipes.load("selm/zephyr-7b"), {key.replace("__", "."): value for key, value in changes.items()}, "test")
    return {stage.name: stage for stage in plans.stages_of(recipe)}


def sampler_of_ys(planned, number):
    """The model that the round's third responses come from."""
    exploration = planned[f"round-{number}/pair"].inputs["exploration"]
    assert isinstance(exploration, Output)
    stage = planned[exploration.stage]
    assert stage.settings["samples"] == 1
    assert stage.settings["sampling"]["temperature"] == 0.0
    return stage.inputs["model"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_every_planned_round_the_sampler_of_ys_is_the_references_model(temperature):
    """Also where the candidates are sampled in another way, so that y_s needs a pass of its own."""
    planned = stages(rollouts__temperature=temperature, rollouts__samples=1 if temperature == 0 else 4)
    for number in (2, 3, 4):
        training = planned[f"round-{number}/train"]
        assert "reference" not in training.inputs  # so that it is the model that training starts from
        assert sampler_of_ys(planned, number) == training.inputs["model"] == Output(f"round-{number - 1}/train", "model")
        assert (f"round-{number}/explore" in planned) == (temperature > 0)


def test_the_rounds_are_those_of_the_released_scripts():
    planned = stages()
    trainings = [planned[f"round-{number}/train"] for number in (1, 2, 3, 4)]
    assert [t.settings["training"]["loss_type"] for t in trainings] == [["sigmoid"], ["selm"], ["selm"], ["selm"]]
    assert [t.settings["training"]["learning_rate"] for t in trainings] == [5e-7, 5e-7, 5e-7, 1e-7]
    for key, value in {"beta": 0.01, "selm_alpha": 0.001, "global_batch_size": 256, "max_length": 1024}.items():
        assert {t.settings["training"][key] for t in trainings} == {value}
    assert trainings[0].inputs["model"] == External("HuggingFaceH4/mistral-7b-sft-beta")
    assert [name for name in planned if name.startswith("round-1")] == ["round-1/pair", "round-1/train"]
    sampling = [planned[f"round-{number}/sample"].settings for number in (2, 3, 4)]
    assert {s["sampling"]["max_new_tokens"] for s in sampling} == {1024}
    parts = [planned["round-1/pair"].settings, *sampling]
    assert [(p["part"], p["parts"]) for p in parts] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    for number in (2, 3, 4):
        assert planned[f"round-{number}/filter"].inputs["data"] == External("HuggingFaceH4/ultrafeedback_binarized")


@pytest.mark.parametrize("reference", ["round", "start"])
def test_the_implicit_reward_is_over_the_reference_that_the_policy_was_trained_against(reference):
    recipe = recipes.load("dice/llama3-8b", ["rounds.count=4", f"rounds.reference={reference}"])
    planned = {stage.name: stage for stage in plans.stages_of(recipe)}
    assert planned["round-1/score"].inputs["reference"] == External(recipe.model.reference)
    for number in (2, 3, 4):
        trained = planned[f"round-{number - 1}/train"].inputs
        scored = planned[f"round-{number}/score"].inputs
        assert scored["policy"] == Output(f"round-{number - 1}/train", "model")
        assert scored["reference"] == trained.get("reference", trained["model"])
        assert (scored["reference"] == External(recipe.model.name_or_path)) == (reference == "start" or number == 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds.overrides": [{"rounds.count": 2}]}, r"rounds.overrides\[0\]: 'rounds.count' cannot differ by round"),
        ({"rounds.overrides": [{"model.dtype": "auto"}]}, "'model.dtype' cannot differ by round"),
        ({"rounds.overrides": [{"training.learning_rat": 1.0}]}, r"overrides\[0\]: training.learning_rat is not a key: did you mean"),
        ({"rounds.overrides": [{}] * 5}, "rounds.overrides has 5 entries for 4 rounds"),
        ({"rounds.overrides": [{"rounds.candidates": "data"}]}, "there is no response for rounds.exploration: policy"),
        ({"rounds.overrides": [{"rounds.exploration": "none"}]}, "belong together"),
        ({"rounds.candidates": "samples", "rounds.filter.min_responses": 1}, "rollouts.samples is 1: a pair needs two responses"),
        ({"rounds.overrides": [FIRST, {"rounds.pairing": "best_wurst"}]}, "rounds.pairing is 'best_wurst': did you mean 'best_worst'"),
        ({"rounds.overrides": [FIRST, {"rounds.replay": 1.5}]}, "rounds.replay is 1.5: expected a share"),
        (
            {
                "rounds.overrides": [],
                "rounds.exploration": "none",
                "training.loss_type": "sigmoid",
                "rollouts.temperature": 1.0,
                "rollouts.samples": 4,
                "rounds.candidates": "samples",
                "rounds.filter.min_responses": 1,
                "rounds.pairing": "best_second",
            },
            r"'best_second' gives the ranks \(0, 1\) for 1 responses",
        ),
        ({"rounds.exploration": "reference"}, "rounds.exploration is 'reference'"),
    ],
)
def test_a_mistake_is_one_sentence(changes, message):
    with pytest.raises(AlignError, match=message):
        plans.stages_of(recipes.changed(recipes.load("selm/zephyr-7b"), changes, "test"))


def test_the_responses_of_the_data_set_stand_beside_the_samples(tmp_path):
    """With the tokens that they have behind the prompt, each text once; one that cannot follow the prompt's tokens is kept aside."""
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path / "policy")
    ids = tuple(tokenizer("What is it?")["input_ids"])
    sampled = PreferenceTree(
        "What is it?", (Node(" Five.", token_ids=(9, 2), metadata={"finish_reason": "length"}),), id=None, prompt_token_ids=ids
    )
    samples = [PreferenceTree(**{**vars(sampled), "id": id, "prompt": prompt}) for id, prompt in _with_ids(["What is it?", "Who?"])]
    from align.runs import Journal

    Journal(tmp_path / "samples").append((tree.id, to_record(tree)) for tree in samples)
    pairs = [
        PreferenceTree("What is it?", (Node(" Six."), Node(" Seven.")), (Edge(0, 1),)),
        PreferenceTree([{"role": "user", "content": "What is it?"}], (Node([{"role": "assistant", "content": " Six."}]), Node(" Ten.")), (Edge(0, 1),)),
    ]  # fmt: skip
    write_trees(pairs, tmp_path / "data.jsonl")
    settings = {"drop_truncated": True, "min_characters": 0, "max_characters": 99, "max_tokens": 99, "min_responses": 2}
    settings |= {"offline_split": "train", "offline_limit": None, "max_rejected_share": 0.1}
    inputs = {"samples": str(tmp_path / "samples"), "data": str(tmp_path / "data.jsonl"), "model": str(tmp_path / "policy")}
    filter_samples(Task("filter", tmp_path / "out", settings, inputs))
    (tree,), _ = read_trees(tmp_path / "out" / "trees.jsonl")
    assert [node.text for node in tree.nodes] == [" Six.", " Seven.", " Ten."]  # the sample ended for length
    for node in tree.nodes:
        assert [*tree.prompt_token_ids, *node.token_ids] == tokenizer(f"What is it?{node.text}{tokenizer.eos_token}")["input_ids"]
    dropped = json.loads((tmp_path / "out" / "dropped.json").read_text())
    assert dropped["of_the_data"] == 3
    assert [entry["valid"] for entry in dropped["prompts_with_too_few"]] == [0]
    refused = as_candidate(PreferenceTree(**{**vars(samples[0]), "prompt_token_ids": (5, 5, 5)}), " Six.", tokenizer)
    assert refused.reason == "its tokens do not begin where the prompt's end"


@pytest.mark.parametrize(("chat", "system"), [(None, "Be brief."), (True, ""), (None, None), (False, None)])
def test_the_pairs_of_the_data_are_asked_as_later_rounds_ask(chat, system, tmp_path):
    """Text goes into the chat template behind the system message, as where it is sampled; a system message of its own stays."""
    byte_level_tokenizer().save_pretrained(tmp_path / "policy")
    own = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    write_trees(
        [PreferenceTree(prompt, (Node("Six."), Node("Seven.")), (Edge(0, 1),)) for prompt in ("What?", own)], tmp_path / "data.jsonl"
    )
    inputs = {"offline": str(tmp_path / "data.jsonl"), "prompts": str(tmp_path / "data.jsonl"), "model": str(tmp_path / "policy")}
    take_pairs(Task("pair", tmp_path / "out", {"source": {}, "chat": chat, "system": system}, inputs))
    trees, _ = read_trees(tmp_path / "out" / "pairs.jsonl")
    assert [tree.prompt for tree in trees] == [asked_as("What?", chat is not False, system), own]
    assert isinstance(trees[0].prompt, str) == (chat is False)


def test_the_plan_says_how_the_pairs_of_the_data_are_asked():
    planned = stages(rollouts__chat=True, rollouts__system="Be brief.")
    taken, sampled = planned["round-1/pair"], planned["round-2/sample"]
    for settings in (taken.settings, sampled.settings):
        assert (settings["chat"], settings["system"]) == (True, "Be brief.")
    assert taken.inputs["model"] == External("HuggingFaceH4/mistral-7b-sft-beta")


def _with_ids(prompts):
    from data_pipelines.rollouts.prompts import prompt_id

    return [(prompt_id(prompt), prompt) for prompt in prompts]


def logged(run, number):
    return [json.loads(line) for line in (run / f"round-{number}" / "train" / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.xdist_group("dice")
def test_a_tiny_run_of_the_recipes_form_trains_on_its_own_policys_greedy_responses(tmp_path):
    """Plain DPO first; then greedy response, chosen and rejected ranked; y_s sampled by the model that the training starts from."""
    models = write_models(tmp_path / "models")
    recipe_file = write_recipe(tmp_path, models)
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["model"].pop("reference")
    recipe["rollouts"] |= {"samples": 1, "temperature": 0.0, "prompts": recipe["data"]["train"]}
    recipe["rounds"] = {
        "count": 3, "prompts": "split", "candidates": "samples_and_data", "exploration": "policy", "replay": 0.0, "length_alpha": 0.0,
        "scorers": [{"name": "length", "options": {"per_character": 1.0}}], "filter": {"drop_truncated": False, "min_responses": 2},
        "overrides": [FIRST, {}, {"training.learning_rate": 1e-3}],
    }  # fmt: skip
    recipe["training"] |= {"loss_type": ["selm"], "selm_alpha": 0.5, "max_steps": 2}
    recipe_file.write_text(yaml.safe_dump(recipe))
    done = align("run", recipe_file)
    assert done.returncode == 0, done.stderr[-3000:]
    run, prompts = tmp_path / "run", []
    assert not (run / "round-1" / "sample").exists()
    for number in (1, 2, 3):
        pairs, _ = read_trees(run / f"round-{number}" / "pair" / "pairs.jsonl")
        prompts += [tree.prompt for tree in pairs]
        policy = load(models / "policy") if number == 1 else load(run / f"round-{number - 1}" / "train" / "model")
        manifest = json.loads((run / f"round-{number}" / "train" / "stage.json").read_text())
        assert "reference" not in manifest["inputs"]
        first = logged(run, number)[0]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)  # policy = reference, on the pairs and on y_s
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
        if number == 1:
            assert all(len(tree.nodes) == 2 for tree in pairs)
            continue
        greedy = {tree.prompt: tree for tree in read_samples(run / f"round-{number}" / "sample" / "samples")}
        for tree in pairs:
            third = tree.nodes[-1]
            assert len(tree.edges) == 1
            assert third.token_ids == greedy[tree.prompt].nodes[0].token_ids
            assert {" It is five.", " It is six, of course."} & {node.text for node in tree.nodes[:2]}
            with torch.no_grad():
                ids = torch.tensor([[*tree.prompt_token_ids, *third.token_ids]])
                best = policy(ids).logits[0, len(tree.prompt_token_ids) - 1 : -1].argmax(-1)
            assert tuple(best.tolist()) == third.token_ids
            drawn = torch.tensor(greedy[tree.prompt].nodes[0].metadata["logps"])
            torch.testing.assert_close(drawn, logps_of(policy, tree, third), atol=1e-4, rtol=0)
    assert sorted(prompts) == sorted(f"What of {word}?" for word in [*WORDS[:6], *OTHERS])
    rates = [max(entry.get("learning_rate", 0) for entry in logged(run, number)) for number in (1, 2, 3)]
    assert rates[0] == rates[1] == pytest.approx(10 * rates[2])
