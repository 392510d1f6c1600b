"""A recipe as it is rehearsed: nothing that reaches out of the machine, nothing that takes long, nothing else changed."""

import pytest

from align import recipes
from align.rehearsal.settings import BATCH, Machine, Rehearsed, Weights

LAPTOP, GPU = Machine(gpu=False, vllm=False, bitsandbytes=False), Machine(gpu=True, vllm=True, bitsandbytes=True)


def rehearsed(tmp_path, name, machine=LAPTOP, *overrides):
    made = Rehearsed(tmp_path, Weights.REAL, machine)
    return made.recipe(recipes.variant(recipes.load(name, overrides), None, 1), "run"), made.replaced


@pytest.mark.parametrize("name", [name for name, _ in recipes.available()])
def test_every_recipe_that_comes_along_stays_valid(name, tmp_path):
    recipe, _ = rehearsed(tmp_path, name)
    training = recipe.training
    assert (training["max_steps"], training["report_to"], training["logging_steps"]) == (2, "none", 1)
    assert training["per_device_train_batch_size"] <= BATCH
    assert training["output_dir"].startswith(str(tmp_path))
    assert (recipe.resources.processes, recipe.resources.accelerate) == (1, None)
    before = recipes.load(name)
    assert training.get("loss_type") == before.training.get("loss_type")
    assert (recipe.data.train, recipe.data.eval) == (before.data.train, before.data.eval)
    for method in ("rounds", "thoughts", "code"):
        assert (getattr(recipe, method) is None) == (getattr(before, method) is None)


def test_what_needs_a_gpu_or_a_package_is_replaced_and_said(tmp_path):
    wanted = ("training.optim=paged_adamw_8bit", "model.attn_implementation=flash_attention_2", "rollouts.options={max_model_len: 99}")
    recipe, said = rehearsed(tmp_path, "dice/llama3-8b", LAPTOP, *wanted)
    assert (recipe.rollouts.engine, recipe.rollouts.options) == ("transformers", {})
    assert (recipe.training["optim"], recipe.model.attn_implementation) == ("adamw_torch", "sdpa")
    keys = ("rollouts.engine", "training.optim", "model.attn_implementation", "resources.accelerate")
    assert all(any(sentence.startswith(key) for sentence in said) for key in keys)
    assert rehearsed(tmp_path, "dpo/llama3-8b-qlora", LAPTOP)[0].model.quantization is None


def test_where_there_is_a_gpu_precision_engine_and_launcher_are_the_recipes_own(tmp_path):
    recipe, _ = rehearsed(tmp_path, "dice/llama3-8b", GPU)
    assert (recipe.rollouts.engine, recipe.model.dtype, recipe.training["bf16"]) == ("vllm", "bfloat16", True)
    assert recipe.resources.accelerate == "zero3"
    assert recipe.rollouts.options == recipes.load("dice/llama3-8b").rollouts.options
    assert rehearsed(tmp_path, "dpo/llama3-8b-qlora", GPU)[0].model.quantization == "nf4"


def test_nothing_goes_to_the_hub_or_into_a_cache_of_the_users(tmp_path):
    recipe, _ = rehearsed(tmp_path, "dpo/zephyr-7b", LAPTOP, "training.push_to_hub=true", "training.hub_model_id=me/mine")
    assert not {"push_to_hub", "hub_model_id"} & recipe.training.keys()
    assert recipe.training["reference_cache_dir"].startswith(str(tmp_path))


def test_rounds_that_split_the_prompts_have_some_each(tmp_path):
    recipe, _ = rehearsed(tmp_path, "dice/llama3-8b", LAPTOP, "rounds.prompts=split", "rounds.count=5")
    assert (recipe.loop.count, recipe.rollouts.limit) == (4, 16)  # of five rounds that are alike four are rehearsed


def test_one_bad_record_in_a_handful_is_no_failure_and_whole_sets_are_held_to_the_recipes_limit(tmp_path):
    recipe, _ = rehearsed(tmp_path, "dpo/zephyr-7b", LAPTOP, "data.max_rejected_share=0.02")
    assert (recipe.training["max_rejected_share"], recipe.data.max_rejected_share) == (0.5, 0.02)
    assert rehearsed(tmp_path, "code/qwen2.5-coder-7b-mbpp", LAPTOP)[0].data.max_rejected_share == 0.5
