"""`align estimate` against counts by hand."""

import json

import pytest

from align import recipes
from align.errors import AlignError
from align.estimate import Workload, check_memory, estimate

LLAMA3_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3_8B))
    return str(tmp_path)


def test_dice_on_eight_gpus(config):
    found = estimate(recipes.load("dice/llama3-8b"), Workload(), config)
    assert found.shape.parameters == 8_030_261_248
    assert found.shape.kv_bytes == 2 * 2 * 32 * 8 * 128  # keys and values, bf16, layers, heads, width
    assert found.stages["sample"][0] == 10_000 * 16 * 400
    assert found.stages["score"][0] == 2 * 10_000 * (200 + 16 * 400)  # each prompt once for its sixteen responses
    assert found.stages["train"][0] == 300 * 32 * 1000
    assert found.stages["score"][1] == pytest.approx(2 * 8.03e9 * 132e6 / (8 * 0.4 * 989e12) / 3600, rel=0.01)
    assert found.rounds == 2
    assert found.hours == pytest.approx(2 * sum(hours for _, hours in found.stages.values()))
    assert found.memory["ZeRO-3"] < found.memory["ZeRO-2"] < found.memory["ZeRO-1"] < found.memory["DDP"]
    assert found.memory["DDP"] > 16 * 8.03  # bf16 weights and gradients, float32 master weights and two moments


def test_what_moves_the_estimate(config):
    recipe = recipes.load("dice/llama3-8b")
    base = estimate(recipe, Workload(), config)
    assert estimate(recipe, Workload(gpus=16), config).stages["sample"][1] == pytest.approx(base.stages["sample"][1] / 2)
    assert estimate(recipe, Workload(gpu="a100"), config).hours > 1.5 * base.hours
    sampler = recipes.load("dice/llama3-8b", ["rounds.policy_scores=sampler"])
    assert estimate(sampler, Workload(), config).stages["score"][1] == pytest.approx(base.stages["score"][1] / 2)
    lora = recipes.load("dpo/llama3-8b", ["model.lora={r: 16}"])
    assert estimate(lora, Workload(), config).memory["DDP"] < 40
    with pytest.raises(AlignError, match="--gpu h10: did you mean 'h100'"):
        estimate(recipe, Workload(gpu="h10"), config)


def test_cpo_counts_thoughts_and_judgements(config):
    found = estimate(recipes.load("cpo/llama2-7b-gsm8k"), Workload(gpus=1, response_tokens=400), config)
    thoughts = 300 * (10 + 3 * 3 * 10)  # k for the question, then k for each of three kept paths at three more steps
    assert found.stages["search"][0] == thoughts * (1 + 5) * 100  # each judged five times, at 100 tokens a step
    assert found.stages["train"][0] == 900 * (200 + 10 * 400)


def test_only_what_the_scorers_read_and_write_is_counted(config):
    def stages(scorers, *more):
        recipe = recipes.load("dice/llama3-8b", [f"rounds.scorers={scorers}", *more])
        return {name: tokens for name, (tokens, _) in estimate(recipe, Workload(), config).stages.items() if name != "train"}

    samples, alone = 10_000 * 16 * 400, 10_000 * 16 * (200 + 400)
    assert stages("[{name: length}]") == {"sample": samples}
    assert stages("[{name: reward_model, options: {model: m}}]") == {"sample": samples, "score": alone}
    graded = {"sample": samples, "score": alone, "grade": 10_000 * 16 * 2 * 300}
    assert stages("[{name: llm, options: {votes: 2, max_new_tokens: 300}}]") == graded
    assert stages("[{name: llm, options: {engine: server, url: 'http://there'}}]") == {"sample": samples}
    both = stages("[{name: implicit}, {name: length}]", "rounds.reference_samples=4")
    assert both == {"sample": samples, "sample-reference": samples / 4, "score": 2 * 10_000 * (2 * 200 + 20 * 400)}


def test_rounds_share_out_the_prompts_and_may_differ(config):
    """SELM: of four rounds with a quarter of the prompts each, the first takes its pairs as they are."""
    recipe = recipes.load("selm/zephyr-7b")
    for more, prompts in ([], 10_000), (["rollouts.limit=4000"], 4_000):
        found = estimate(recipes.load("selm/zephyr-7b", more), Workload(), config)
        assert found.rounds == 4
        assert found.stages["sample"][0] == prompts * 400 * 3 / 4 / 4
        assert "explore" not in found.stages  # the one sample is the greedy one
        trees = prompts / 4 * recipe.training["num_train_epochs"]
        assert found.stages["train"][0] == trees * (200 + 2 * 400)
    split = recipes.load("cpo/llama2-7b-gsm8k", ["rounds={count: 2, prompts: split}"])
    whole = recipes.load("cpo/llama2-7b-gsm8k")
    assert 2 * estimate(split, Workload(), config).stages["search"][0] == estimate(whole, Workload(), config).stages["search"][0]


def test_the_judgements_of_every_judge_are_counted(config):
    def stages(judge, *more):
        recipe = recipes.load("cpo/llama2-7b-gsm8k", [f"thoughts.judge={judge}", *more])
        return {name: tokens for name, (tokens, _) in estimate(recipe, Workload(), config).stages.items() if name != "train"}

    step, paths = 300 * 100, [10, 30, 30, 30]  # 300 questions, thoughts of 100 tokens; k for the question and each of three kept paths
    assert stages("{name: checker}") == {"search": step * 100}
    assert stages("{name: steps, votes: 3}") == {"search": step * (100 + 3 * 100)}
    assert stages("{name: answer, votes: 2}") == {"search": step * (100 + 2 * (10 * 3 + 30 * 2 + 30))}
    assert stages("{name: vote, votes: 5}") == {"search": step * (100 + 5 * (1 + 3 * 3))}
    packed = sum(200 + count * number * 100 for number, count in enumerate(paths, 1))
    assert stages("{name: implicit}", "model.reference=r") == {"search": step * 100, "judge": 300 * 2 * packed}


def test_too_little_memory_is_said_with_what_would_do(config):
    recipe = recipes.load("dpo/llama3-8b", ["resources.accelerate=zero2"])
    check_memory(recipe, estimate(recipe, Workload(gpus=8), config))
    ways = r"take zero3 or fsdp2 or zero3-offload or zero2 on 4 GPUs or LoRA"
    with pytest.raises(AlignError, match=r"'zero2': training takes \d+\.\d GB of each of 2 a100, where 73\.6 GB can be used: " + ways):
        check_memory(recipe, estimate(recipe, Workload(gpu="a100", gpus=2), config))
    for way in ("resources.accelerate=zero3-offload", "model.lora={r: 16}"):
        recipe = recipes.load("dpo/llama3-8b", ["resources.accelerate=zero2", way])
        check_memory(recipe, estimate(recipe, Workload(gpu="a100", gpus=2), config))


def test_what_fits_one_small_gpu(config):
    """QLoRA of 8B parameters in 24 GB, LoRA in 48, all weights in neither; long rows only with their activations in main memory."""
    one = lambda gpu: Workload(gpu=gpu, gpus=1)
    check_memory(recipe := recipes.load("dpo/llama3-8b-qlora"), estimate(recipe, one("rtx4090"), config))
    check_memory(recipe := recipes.load("dpo/llama3-8b-lora"), estimate(recipe, one("l40s"), config))
    whole = recipes.load("dpo/llama3-8b", ["resources.accelerate=ddp"])
    with pytest.raises(AlignError, match=r"'ddp': training takes .* take zero3-offload or LoRA"):
        check_memory(whole, estimate(whole, one("rtx4090"), config))
    long, kept = recipes.load("dpo/qwen2.5-7b-32k"), recipes.load("dpo/qwen2.5-7b-32k", ["training.gradient_checkpointing_kwargs={}"])
    assert estimate(long, Workload(), config).memory["ZeRO-3"] + 10 < estimate(kept, Workload(), config).memory["ZeRO-3"]
