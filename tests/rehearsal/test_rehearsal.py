"""`align run --rehearse`: every shipped recipe on stand-ins for what it names on the hub, and what a failure says and leaves."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from conftest import SHARED, align_here, needs_vllm
from hub_records import ASKED
from hub_standins import fill, variables

from align import recipes

FOR_EACH_METHOD = (  # and each form of data; the others differ from these in models and numbers
    "code/qwen2.5-coder-7b-mbpp", "cpo/mistral-7b-fever", "cpo/qwen2.5-7b-gsm8k", "dpo/llama3-8b-lora",
    "dpo/qwen2.5-7b-32k", "selm/zephyr-7b",
)  # fmt: skip
HERE = ["rollouts.engine=transformers", "rollouts.options={}"]


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """The environment in which stand-ins are the hub."""
    return variables(fill(tmp_path_factory.mktemp("hub")))


def rehearse(folder, environment, *words):
    """The command line in a folder; as long as it takes on a busy machine."""
    command = [sys.executable, "-m", "align.cli", "run", *map(str, words)]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=2400)


def long_pairs(folder):
    """What the recipe for long documents asks its user for."""
    document = " ".join(f"Paragraph {number} says that the river rose by {number} centimetres." for number in range(60))
    pairs = [{"prompt": f"{document}\n\n{asked}", "chosen": chosen, "rejected": rejected} for asked, chosen, rejected in ASKED]
    (folder / "my-long-pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FOR_EACH_METHOD else pytest.mark.exhaustive) for name, _ in recipes.available()]
)
def test_every_recipe_that_comes_along_ends(name, hub, tmp_path):
    if name.startswith("dpo/qwen2.5-7b-32k"):
        long_pairs(tmp_path)
    samples = recipes.load(name).rollouts is not None
    done = rehearse(tmp_path, hub, name, "--rehearse", *(HERE if samples else []))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all of them done" in done.stdout
    assert [path.name for path in tmp_path.glob("runs/*")] == [], "the folder is thrown away, and nothing else was written"


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/rounds/test_dice_vllm.py has two rounds with vLLM
@needs_vllm
@pytest.mark.xdist_group("vllm")
def test_two_rounds_on_conversations_with_replay_end_with_the_engine_that_the_recipe_names(hub, tmp_path):
    done = rehearse(tmp_path, hub, "dice/zephyr-7b", "--rehearse")
    assert done.returncode == 0, done.stderr[-3000:]
    stages = [line.split()[0] for line in done.stdout.splitlines() if " done in " in line and line.startswith("round-")]
    assert {stage for stage in stages if stage.endswith("/train")} == {"round-1/train", "round-2/train"}
    assert "rollouts.engine" not in done.stdout.partition("Not as it will be")[2]


@pytest.fixture
def preferences(tmp_path):
    """A recipe with rounds on files of its own; a model's description without weights."""
    import transformers as T
    from conftest import byte_level_tokenizer

    T.LlamaConfig(vocab_size=32000, eos_token_id=2, pad_token_id=0, bos_token_id=None).save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    pairs = [{"prompt": asked, "chosen": chosen, "rejected": rejected} for asked, chosen, rejected in ASKED]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    scorer = {"name": "function", "options": {"function": "grading:grade"}}
    recipe = {
        "model": {"name_or_path": "model", "reference": "model"}, "data": {"train": "pairs.jsonl"},
        "rollouts": {"prompts": "pairs.jsonl"}, "rounds": {"count": 1, "scorers": [scorer], "length_alpha": 0.0},
        "training": {"output_dir": "runs/mine", "report_to": "wandb", "num_train_epochs": 3},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "grading.py").write_text("def grade(prompt, response):\n    return len(response)\n")
    return tmp_path


def run_here(folder, *words):
    """The recipe above, whose scorer is a module beside it."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return rehearse(folder, {"PYTHONPATH": path}, "recipe.yaml", *words)


@pytest.mark.slow
def test_a_rehearsal_fails_where_the_run_would_and_keeps_its_folder(preferences):
    (preferences / "grading.py").write_text("def grade(prompt, response):\n    return float('nan')\n")
    done = run_here(preferences, "--rehearse")
    assert done.returncode == 2
    assert "align: round-1/score: " in done.stderr
    assert "gives nan, which cannot be ranked" in done.stderr
    (kept,) = (preferences / "runs").glob("mine-rehearsal-*")
    assert done.stderr.strip().endswith(f"its folder is kept: runs/{kept.name}")
    assert (kept / "run" / "round-1" / "sample" / "samples").exists()
    assert "run the same command to go on" not in done.stderr


@pytest.mark.slow
def test_a_rehearsal_says_what_it_replaced_and_leaves_a_run_in_the_same_place_alone(preferences):
    mine = preferences / "runs" / "mine"
    mine.mkdir(parents=True)
    (mine / "recipe.yaml").write_text("what is there\n")
    done = run_here(preferences, "--rehearse", "training.beta=0.2", "--until", "round-1/pair")
    assert done.returncode == 0, done.stderr
    assert "rehearsed: 4 stages" in done.stdout
    assert "model: a random model of its architecture with" in done.stdout
    assert "responses written after the records stand beside the model's own" in done.stdout
    assert [path.name for path in (preferences / "runs").iterdir()] == ["mine"]
    assert [path.name for path in mine.iterdir()] == ["recipe.yaml"]


def test_what_does_not_go_with_a_rehearsal_is_said():
    done = align_here("run", "micro/dice", "--rehearse", "--jobs", "2")
    assert done.returncode == 2
    assert "--rehearse goes with --until alone" in done.stderr


def test_a_recipe_that_is_wrong_is_found_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = align_here("run", "micro/dice", "--rehearse", "rounds.counts=2")
    assert done.returncode == 2
    assert "rounds.counts is not a key" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_real_model_is_rehearsed_where_that_is_asked_for(hub, tmp_path):
    model = SHARED.parent / "smollm2"
    if not model.is_dir():
        pytest.skip("there is no pretrained model beside the checkout")
    quick = ("model.dtype=float32", "training.max_length=128")  # few processors are quick with 16 bits
    done = rehearse(tmp_path, hub, "dpo/zephyr-7b", "--rehearse", "real", f"model.name_or_path={model}", *quick)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "random model" not in done.stdout
