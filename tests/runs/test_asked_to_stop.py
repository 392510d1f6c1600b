"""`align run` whose training is asked to stop saves a checkpoint, and the same command ends with the weights of a run left alone."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import align, byte_level_tokenizer, random_model
from safetensors.torch import load_file

from align.runs.stop_file import STOP_FILE

STEPS = 200


def write_recipe(folder):
    random_model(scale=0.1).save_pretrained(folder / "model")
    byte_level_tokenizer().save_pretrained(folder / "model")
    pairs = [{"prompt": f"What is {n}?", "chosen": f" It is {n}.", "rejected": " No idea, of course."} for n in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    recipe = {
        "model": {"name_or_path": str(folder / "model"), "dtype": "float32"},
        "data": {"train": str(folder / "pairs.jsonl")},
        "training": {
            "max_steps": STEPS, "per_device_train_batch_size": 4, "bf16": False, "report_to": "none", "gradient_checkpointing": False,
            "logging_steps": 1, "monitor_prompts": 2, "monitor_max_new_tokens": 4, "disable_tqdm": True, "save_strategy": "no",
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.mark.slow
def test_a_run_whose_training_is_asked_to_stop_goes_on_from_there(tmp_path):
    recipe, file = write_recipe(tmp_path), tmp_path / "stop"
    alone = align("run", recipe, f"training.output_dir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr[-2000:]
    command = [sys.executable, "-m", "align.cli", "run", str(recipe), f"training.output_dir={tmp_path / 'asked'}"]
    process = subprocess.Popen(
        command, env={**os.environ, STOP_FILE: str(file)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "asked/train/checkpoints/three_d.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    file.touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    step = re.search(rf"asked to stop at step (\d+) of {STEPS}: a checkpoint is saved", errors)
    assert step, errors
    assert errors.strip().endswith("interrupted in train: run the same command to go on")
    assert (tmp_path / f"asked/train/checkpoints/checkpoint-{step[1]}/trainer_state.json").exists()
    file.unlink()
    again = align("run", recipe, f"training.output_dir={tmp_path / 'asked'}")
    assert again.returncode == 0, again.stderr[-2000:]
    expected = load_file(tmp_path / "alone/train/model/model.safetensors")
    for name, tensor in load_file(tmp_path / "asked/train/model/model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
