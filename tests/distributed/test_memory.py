"""`align estimate`'s gigabytes, against what small models hold: bytes a parameter, and bytes a token."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import spread
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from align import recipes
from align.estimate import Workload, estimate
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree

SMALL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 2048, "tie_word_embeddings": False,
}  # fmt: skip
BATCH = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model small enough to train here, with an MLP of the width that large ones have."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "config.json").write_text(json.dumps(SMALL))
    return folder


def estimated(model, workload, checkpointing=True):
    """Bytes a GPU."""
    settings = {"per_device_train_batch_size": BATCH, "precompute_ref_log_probs": True, "gradient_checkpointing": checkpointing}
    recipe = recipes.load("dpo/llama3-8b", [f"training.{name}={value}" for name, value in settings.items()])
    return {row: 1e9 * gigabytes for row, gigabytes in estimate(recipe, workload, str(model)).memory.items()}


@pytest.mark.slow
@pytest.mark.exhaustive  # minutes
@pytest.mark.xdist_group("distributed")
def test_model_states_are_those_that_deepspeed_holds(model):
    """Two processes under ZeRO 0 to 3 in bfloat16: weights, gradients, master weights and moments, tensor by tensor."""
    states = Path(__file__).with_name("states.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(states), str(model)]
    done = subprocess.run(command, env=spread.environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    found = estimated(model, Workload(gpus=2, prompt_tokens=0, response_tokens=0))
    for stage, row in enumerate(("DDP", "ZeRO-1", "ZeRO-2")):
        assert found[row] == pytest.approx(measured[str(stage)], rel=0.01), row
    assert measured["3"] <= found["ZeRO-3"] <= 1.15 * measured["3"]  # the estimate has two gathered layers; by the end of a pass none is


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_that_the_backward_keeps(model, checkpointing, tokenizer, tmp_path):
    """Counted where autograd saves them, in a step of the trainer in bfloat16."""
    torch.manual_seed(0)
    trained = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.bfloat16).train()
    trees = [PreferenceTree(f"{place} ab cd " * 20, (Node("xy " * 60), Node("zq " * 60)), (Edge(0, 1),)) for place in range(BATCH)]
    arguments = PreferenceConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=True, per_device_train_batch_size=BATCH, precompute_ref_log_probs=True,
        max_length=1024, report_to="none",
    )  # fmt: skip
    trainer = PreferenceTrainer(trained, None, arguments, train_dataset=trees, processing_class=tokenizer)
    if checkpointing:
        trained.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        trained.gradient_checkpointing_disable()
    batch = next(iter(trainer.get_train_dataloader()))
    weights = {parameter.untyped_storage().data_ptr() for parameter in trained.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that its address does not become another's
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.compute_loss(trainer.model, batch)
    measured = sum(storage.nbytes() for storage in kept.values())
    tokens = sum(part.input_ids.numel() for part in batch.values() if hasattr(part, "input_ids"))
    both = [
        estimated(model, Workload(gpus=1, prompt_tokens=count, response_tokens=0), checkpointing)["DDP"] for count in (tokens // BATCH, 0)
    ]
    logits = 6 * tokens * SMALL["vocab_size"]
    one_layer = (
        tokens * (8 * SMALL["intermediate_size"] + 26 * SMALL["hidden_size"]) if checkpointing else 0
    )  # is made again in the backward
    found = both[0] - both[1] - logits - one_layer
    assert found == pytest.approx(measured, rel=0.1)
