"""Runs of the methods' trainers: a script gives what the recipe gives, also over two processes, also if it is killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import ROOT, align
from safetensors.torch import load_file
from tiny import WORDS, write_models, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dice")]
SCRIPT = """
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.methods import DICEConfig, DICETrainer
from own_parts import best_over_last

trainer = DICETrainer(
    AutoModelForCausalLM.from_pretrained("{models}/policy"),
    DICEConfig(
        "{folder}/run", rounds=2, num_generations=6, max_completion_length=16, temperature=0.9, generation_batch_size=12, chat=False,
        replay=0.2, max_steps=6, per_device_train_batch_size={batch}, learning_rate=1e-4, lr_scheduler_type="linear", bf16=False, use_cpu=True,
        precompute_ref_log_probs=False, gradient_checkpointing=False, save_strategy="steps", save_steps=1, monitor_prompts=2,
        monitor_max_new_tokens=4, logging_steps=1, seed=3, report_to="none", model_init_kwargs={{"dtype": "float32"}},
        recipe={{"rounds.filter": {{"drop_truncated": False, "min_characters": 1, "min_responses": 3}}}},
    ),
    processing_class=AutoTokenizer.from_pretrained("{models}/policy"), ref_model="{models}/reference",
    prompts=Dataset.from_json("{folder}/prompts.jsonl"), train_dataset="{folder}/offline.jsonl",
    pair=best_over_last, callbacks=[__import__("own_parts").Tells()],
)
if __name__ == "__main__":
    trainer.train()
"""
PARTS = '''
from transformers import TrainerCallback



def best_over_last(count):
    """The best over the worst."""
    return [(0, count - 1)]


class Tells(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        print(f"CALLED at {state.global_step}", flush=True)
'''
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def of_recipe(models, tmp_path_factory):
    """The run of the recipe that says the same as the script."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "own_parts.py").write_text(PARTS)
    source = write_recipe(folder, models, rounds__pairing="own_parts:best_over_last", training__learning_rate=1e-4)
    done = align("run", source, "seeds=[3]", env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{folder}"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def script(folder, models, processes=1):
    """The script, and its command."""
    write_recipe(folder, models)  # its prompts and pairs
    (folder / "own_parts.py").write_text(PARTS)
    (folder / "script.py").write_text(SCRIPT.format(folder=folder, models=models, batch=2 // processes))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *launcher, str(folder / "script.py")]


def run(command, folder):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def trees(run, folder):
    """What a stage left, by file: the records of all its journals together, or each file's bytes."""
    files = sorted(path for path in (run / folder).rglob("*.jsonl") if "log" not in path.name)
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def difference(one, other):
    """The largest difference of weights between two runs, over all rounds."""
    found = 0.0
    for number in (1, 2):
        a, b = (load_file(run / f"round-{number}/train/model/model.safetensors") for run in (one, other))
        found = max(found, max((a[name].double() - b[name].double()).abs().max().item() for name in a))
    return found


def test_a_script_gives_the_trees_and_weights_of_its_recipe(of_recipe, models, tmp_path):
    told = run(script(tmp_path, models), tmp_path)
    for stage in ("sample", "filter", "score", "pair"):
        for number in (1, 2):
            name = f"round-{number}/{stage}"
            assert trees(tmp_path / "run", name) == trees(of_recipe, name) != {}, name
    assert difference(tmp_path / "run", of_recipe) <= 1e-6
    assert told.count("CALLED at 6") == 2
    assert (tmp_path / "run/report.html").exists()
    assert align("status", tmp_path / "run", env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{tmp_path}"}).returncode == 0


def test_two_processes_that_are_killed_on_the_way_give_what_one_gives(of_recipe, models, tmp_path):
    command = script(tmp_path, models, processes=2)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "killed.log").open("w") as log:
        started = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while not list((tmp_path / "run").glob("round-2/train/checkpoints/checkpoint-2")) and time.monotonic() < deadline:
            assert started.poll() is None, (tmp_path / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        for process in psutil.Process(started.pid).children(recursive=True):  # each rank has a session of its own
            process.kill()
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    told = run(command, tmp_path)
    assert "round-1/train        done already" in told
    assert told.count("CALLED at 6") == 2  # round 2, on both
    first = "round-1/filter", "round-1/pair"
    assert [trees(tmp_path / "run", name) for name in first] == [trees(of_recipe, name) for name in first]
    assert difference(tmp_path / "run", of_recipe) <= 1e-6
    assert not list((tmp_path / "run").glob("orders-*"))


@pytest.mark.exhaustive
def test_a_failure_of_the_main_process_ends_all(models, tmp_path):
    command = script(tmp_path, models, processes=2)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"promt": word}) + "\n" for word in WORDS))
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "prompt" in done.stderr


def test_the_last_model_can_be_had_saved_and_trained_with_lora(models, tmp_path):
    """CPO's twin is in the configs' tests; here an adapter of each round, on the tiny recipe."""
    from peft import LoraConfig

    from align.methods import RoundsConfig, RoundsTrainer

    write_recipe(tmp_path, models)
    config = RoundsConfig(
        str(tmp_path / "run"), rounds=1, num_generations=4, max_completion_length=8, chat=False, max_steps=2, bf16=False, use_cpu=True,
        report_to="none", monitor_3d=False, gradient_checkpointing=False, model_init_kwargs={"dtype": "float32"}, save_strategy="no",
        recipe={"rounds.filter": {"drop_truncated": False, "min_characters": 1, "min_responses": 2}, "rounds.replay": 0.0, "rounds.length_alpha": 0.0},
    )  # fmt: skip
    trainer = RoundsTrainer(
        f"{models}/policy", config, prompts=str(tmp_path / "prompts.jsonl"), judge="length", pair="best_worst", peft_config=LoraConfig(r=2)
    )
    before = torch.random.get_rng_state()
    folder = trainer.train()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (folder.parent / "adapter/adapter_config.json").exists()
    trainer.save_model(str(tmp_path / "copy"))
    saved = load_file(tmp_path / "copy/model.safetensors")
    loaded = dict(trainer.model.named_parameters())
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert trainer.processing_class("What?")["input_ids"]
