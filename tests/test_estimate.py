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
