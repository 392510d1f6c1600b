"""All four methods on a real pretrained chat model with real data, sampled with real vLLM, prompts in the model's chat template.

`scripts/real_model.py FOLDER` makes the model's folder; the environment variable ALIGN_REAL_MODEL names it.
"""

import gzip
import json
import os
from pathlib import Path

import pytest
import yaml
from conftest import align, needs_vllm
from safetensors.torch import load_file

from align.trees import read_trees

MODEL = Path(os.environ.get("ALIGN_REAL_MODEL", "nowhere"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("real model"),
    needs_vllm,
    pytest.mark.skipif(
        not (MODEL / "model.safetensors").exists(), reason="ALIGN_REAL_MODEL names no model folder (python scripts/real_model.py FOLDER)"
    ),
]
TRAINING = {
    "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-5, "bf16": False, "max_length": 512, "report_to": "none",
    "monitor_3d": False, "save_strategy": "no", "max_grad_norm": 1.0,
}  # fmt: skip
ENGINE = {"engine": "vllm", "options": {"max_model_len": 1024, "enforce_eager": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real-model")


@pytest.fixture(scope="module")
def conversations(folder, shared_data):
    """AlpacaEval's answers of two models in the form of UltraFeedback: a text prompt beside whole conversations."""
    with gzip.open(shared_data / "alpaca_eval" / "vicuna-7b.json.gz", "rt") as source:
        rows = [row for row in json.load(source) if max(len(row["output_1"]), len(row["output_2"])) < 900 and row["preference"]][:12]
    assert len(rows) == 12

    def turns(row, output):
        return [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row[output]}]

    with open(folder / "conversations.jsonl", "w") as out:
        for row in rows:
            better, worse = ("output_1", "output_2") if row["preference"] < 1.5 else ("output_2", "output_1")
            out.write(json.dumps({"prompt": row["instruction"], "chosen": turns(row, better), "rejected": turns(row, worse)}) + "\n")
    return folder / "conversations.jsonl"


def carried_out(folder, name, recipe):
    """Run a recipe to its end; the folder of the run."""
    recipe["training"] = {**TRAINING, **recipe.get("training", {}), "output_dir": str(folder / name)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    done = align("run", folder / f"{name}.yaml", timeout=2400)  # 135M parameters on two cores
    assert done.returncode == 0, done.stderr[-4000:]
    assert (folder / name / "report.html").exists()
    return folder / name


def weights_differ(trained, before=MODEL):
    """Whether a training changed the model, and left numbers."""
    now, then = load_file(trained / "model.safetensors"), load_file(before / "model.safetensors")
    assert all(weight.isfinite().all() for weight in now.values())
    return any((now[name].float() != weight.float()).any() for name, weight in then.items() if name in now)


@pytest.fixture(scope="module")
def tuned(folder, conversations):
    recipe = {
        "model": {"name_or_path": str(MODEL), "dtype": "float32"},
        "data": {"train": str(conversations)},
        "training": {"sft_weight": 0.1, "beta_rejected": 0.08},
    }
    return carried_out(folder, "dpo", recipe) / "train" / "model"


def test_dpo_trains(tuned):
    assert weights_differ(tuned)


def test_two_rounds_of_dice_with_replay(folder, conversations, tuned):
    run = carried_out(
        folder,
        "dice",
        {
            "model": {"name_or_path": str(tuned), "reference": str(MODEL), "dtype": "float32"},
            "data": {"train": str(conversations)},
            "rollouts": {"prompts": str(conversations), "limit": 4, "samples": 3, "temperature": 0.9, "max_new_tokens": 128, **ENGINE},
            "rounds": {"count": 2, "replay": 0.5, "filter": {"min_responses": 2, "drop_truncated": False}},
        },
    )
    for number in (1, 2):
        trees, _ = read_trees(run / f"round-{number}" / "pair" / "pairs.jsonl")
        statistics = json.loads((run / f"round-{number}" / "pair" / "statistics.json").read_text())
        assert statistics["replayed"] > 0
        assert all(tree.edges for tree in trees)
    assert weights_differ(run / "round-2" / "train" / "model", run / "round-1" / "train" / "model")


def test_cpo_on_questions_of_gsm8k(folder, shared_data):
    run = carried_out(
        folder,
        "cpo",
        {
            "model": {"name_or_path": str(MODEL), "dtype": "float32", "lora": {"r": 8, "alpha": 16, "dropout": 0.0}},
            "rollouts": {
                "prompts": str(shared_data / "gsm8k" / "train-first1500.jsonl"), "limit": 3, "samples": 4, "temperature": 0.7, "chat": True,
                **ENGINE, "options": {"max_model_len": 2048, "enforce_eager": True},
            },
            "thoughts": {"task": "gsm8k", "keep": 2, "keep_at_most": 2, "judge": {"name": "self_evaluation", "votes": 2}},
            "training": {"max_length": 1536},
        },
    )  # fmt: skip
    assert sum(len(tree.edges) for tree in read_trees(run / "edges" / "pairs.jsonl")[0]) > 0


def test_code_on_problems_of_mbpp(folder, shared_data):
    run = carried_out(
        folder,
        "code",
        {
            "model": {"name_or_path": str(MODEL), "dtype": "float32"},
            "rollouts": {
                "prompts": str(shared_data / "mbpp" / "sanitized-mbpp.json"), "limit": 16, "samples": 6, "temperature": 0.8, "chat": True,
                "max_new_tokens": 160, **ENGINE,
            },
            "code": {"decontaminate": [], "drop_truncated": False},
        },
    )  # fmt: skip
    assert sum(len(tree.edges) for tree in read_trees(run / "pair" / "pairs.jsonl")[0]) > 0
    assert weights_differ(run / "train" / "model")
