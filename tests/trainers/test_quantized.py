"""QLoRA with real bitsandbytes, which computes on CPUs too."""

import json
import math

import pytest
import torch
import yaml
from conftest import align, byte_level_tokenizer, small_llama
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from align.models import load_model
from align.trainers import PreferenceConfig, PreferenceTrainer

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install bitsandbytes)")
ROWS = [{"prompt": f"What is {a}?\n", "chosen": f"It is {a}.", "rejected": "No idea, of course."} for a in range(12)]


@pytest.fixture
def recipe(tmp_path):
    small_llama().save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    content = {
        "model": {"name_or_path": str(tmp_path / "model"), "dtype": "float32", "quantization": "nf4", "lora": {"r": 8, "dropout": 0.0}},
        "data": {"train": str(tmp_path / "pairs.jsonl")},
        "training": {
            "output_dir": str(tmp_path / "out"), "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "bf16": False,
            "report_to": "none", "logging_steps": 1, "save_strategy": "epoch", "monitor_prompts": 2, "monitor_max_new_tokens": 4,
        },
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_an_adapter_is_trained_over_weights_of_four_bits(recipe, tmp_path):
    done = align("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "out/checkpoint-9/trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), rel=1e-4)  # the adapter's reference is the quantized model, not the whole one
    assert losses[-1] < losses[0] - 0.1
    merged = load_model(str(tmp_path / "out"), dtype="float32").eval()
    plain = load_model(str(tmp_path / "model"), dtype="float32").eval()
    assert not torch.equal(merged.model.layers[0].mlp.up_proj.weight, plain.model.layers[0].mlp.up_proj.weight)


@pytest.mark.slow
def test_a_trained_adapter_over_four_bits_is_its_own_reference(recipe, tmp_path, settings):
    model = load_model(str(tmp_path / "model"), dtype="float32", quantization="nf4")
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    args = PreferenceConfig(**{**settings, "max_steps": 2, "learning_rate": 1e-2, "logging_steps": 1})
    trainer = PreferenceTrainer(adapted, None, args, train_dataset=Dataset.from_list(ROWS), processing_class=byte_level_tokenizer())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[1] < losses[0] - 0.01


@pytest.mark.slow
def test_weights_are_kept_in_four_bits(recipe, tmp_path):
    model = load_model(str(tmp_path / "model"), dtype="float32", quantization="nf4")
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8


@pytest.mark.slow
def test_quantized_weights_alone_are_refused(recipe):
    done = align("train", recipe, "model.lora=null")
    assert done.returncode == 2
    assert "quantization needs lora" in done.stderr
