"""Real pairs through the trainer: GSM8K model solutions (right over wrong) and AlpacaEval, with and without a chat template."""

import gzip
import json
import math

import pytest
from conftest import random_model

from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree, pairs_from_tree, trees_from_pairs, write_trees


def gsm8k(folder):
    """One tree a question: every right solution over every wrong one."""
    trees = []
    for line in (folder / "gsm8k" / "model-solutions-first600.jsonl").read_text().splitlines():
        record = json.loads(line)
        models = [value for value in record.values() if isinstance(value, dict) and "is_correct" in value]
        nodes = tuple(dict.fromkeys((m["solution"].strip(), m["is_correct"]) for m in models if m["solution"].strip()))
        edges = tuple(Edge(i, j) for i, (_, good) in enumerate(nodes) for j, (_, other) in enumerate(nodes) if good and not other)
        if edges:
            trees.append(PreferenceTree(record["question"] + "\n", tuple(Node(text, score=float(good)) for text, good in nodes), edges))
    return trees


def alpaca_eval(folder):
    """Two real outputs an instruction, the preferred one first."""
    with gzip.open(folder / "alpaca_eval" / "vicuna-7b.json.gz") as file:
        for record in json.load(file):
            outputs = [record["output_1"], record["output_2"]]
            if record["preference"] is not None and all(outputs) and outputs[0] != outputs[1]:
                better = int(record["preference"] > 1.5)
                yield {"prompt": record["instruction"], "chosen": outputs[better], "rejected": outputs[1 - better]}


def as_chat(tree):
    return PreferenceTree([{"role": "user", "content": tree.prompt}], tree.nodes, tree.edges)


@pytest.mark.slow
@pytest.mark.parametrize("template", [False, True], ids=["plain", "chat template"])
@pytest.mark.parametrize("source", ["gsm8k", "alpaca_eval"])
def test_trainer_runs_on_real_pairs(source, template, shared_data, settings, tokenizer, tmp_path):
    trees = gsm8k(shared_data) if source == "gsm8k" else trees_from_pairs(alpaca_eval(shared_data))
    assert len(trees) > 200
    write_trees(trees, tmp_path / "all.jsonl")
    part = [as_chat(tree) if template else tree for tree in trees[:24]]
    changes = {"monitor_3d": True, "max_length": 1024, "truncation_mode": "keep_start", "max_tokens_per_batch": 6000, "num_train_epochs": 2}
    args = PreferenceConfig(**{**settings, **changes, "learning_rate": 1e-3, "logging_steps": 1, "monitor_max_new_tokens": 8})
    trainer = PreferenceTrainer(random_model(scale=0.05), random_model(scale=0.05), args, train_dataset=part, processing_class=tokenizer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] == pytest.approx(math.log(2), rel=1e-3)
    assert sum(1 for tree in trees for _ in pairs_from_tree(tree)) == sum(len(tree.edges) for tree in trees)
