"""CHES and log-probs of a data set against the plain model, one sequence at a time; what the filter drops."""

from dataclasses import replace

import pytest
import torch
from conftest import random_model

from align.diagnostics.inspection import inspect, own_samples, tokenize, without_highest
from align.models import load_model, load_tokenizer
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree
from data_pipelines.micro.preferences import sample_preferences
from data_pipelines.micro.start_model import resolve

TREES = [
    PreferenceTree(
        "What is two plus three?\n", (Node("It is five."), Node("It is seven, of course."), Node("No idea.")), (Edge(0, 1), Edge(0, 2))
    ),
    PreferenceTree("How many apples?\n", (Node("17 apples are left."), Node("There are none.")), (Edge(0, 1),)),
    PreferenceTree("Go on.\n", (Node("First we look."), Node(" So it is 42.", parent=0), Node(" So 41.", parent=0)), (Edge(1, 2),)),
]


def plainly(model, tree, edge):
    """Log-probs, lengths and both scores of a pair, from two plain forwards."""
    found = []
    for node in edge:
        path = [node]
        while tree.parents[path[0]] >= 0:
            path.insert(0, tree.parents[path[0]])
        ids = [token for place in path for token in tree.tokens[place]]
        own = len(tree.tokens[node])
        out = model(torch.tensor([ids]), output_hidden_states=True)
        states = out.hidden_states[-1][0, -own - 1 : -1]
        logps = out.logits[0, -own - 1 : -1].double().log_softmax(-1).gather(1, torch.tensor(ids[-own:])[:, None])
        found.append((states.double().sum(0), own, logps.sum().item()))
    (plus, n, logp), (minus, m, other) = found
    score = plus @ minus - plus @ plus
    normalized = plus @ minus / (n * m) - plus @ plus / n**2
    return logp, other, n, m, score.item(), normalized.item()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "mistral-window", "bloom"])
def test_scores_are_those_of_plain_forwards(family, tokenizer):
    model = random_model(family).double()
    trees, rejected = tokenize(TREES, tokenizer)
    assert not rejected
    found = inspect(model, trees, max_tokens=60)
    assert [(one.tree, one.edge) for one in found.edges] == [(n, e) for n, tree in trees.items() for e in range(len(tree.edges))]
    with torch.no_grad():
        for one in found.edges:
            values = (one.chosen_logp, one.rejected_logp, one.chosen_tokens, one.rejected_tokens, one.ches, one.ches_normalized)
            assert values == pytest.approx(plainly(model, trees[one.tree], trees[one.tree].edges[one.edge]), rel=1e-6)


def test_own_samples_are_seen_alone(tokenizer):
    model = random_model()
    trees, _ = tokenize(TREES, tokenizer)
    samples = own_samples(model, tokenizer, trees, 2, max_new_tokens=5)
    found = inspect(model, samples)
    assert found.edges == []
    assert len(found.unseen_logps) == len(samples) == 2
    assert all(0 < tokens <= 5 for tokens in found.unseen_tokens)


def test_the_filter_drops_the_highest_edges(tokenizer):
    trees, _ = tokenize(TREES, tokenizer)
    edges = inspect(random_model(), trees).edges
    for by in ("ches", "ches_normalized"):
        highest = max(edges, key=lambda edge: getattr(edge, by))
        left = without_highest(TREES, edges, 0.25, by)
        assert sum(len(tree.edges) for tree in left) == 3
        kept = [(tree.prompt, edge) for tree in left for edge in tree.edges]
        assert (TREES[highest.tree].prompt, TREES[highest.tree].edges[highest.edge]) not in kept
    assert without_highest(TREES, edges, 0.0) == TREES
    assert without_highest(TREES, edges, 1.0) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_filtering_reduces_displacement_on_the_micro_model(seed, tmp_path):
    """Of two sets of pairs, the third with the lowest CHES leaves the chosen responses more likely than the third with the highest."""
    path = resolve("micro:sums", 42)
    tokenizer, start = load_tokenizer(path), load_model(path, dtype="float32").eval()
    trees = sample_preferences(start, tokenizer, count=360, seed=seed)
    edges = inspect(start, tokenize(trees, tokenizer)[0]).edges
    opposite = [replace(edge, ches=-edge.ches) for edge in edges]
    thirds = without_highest(trees, edges, 2 / 3, "ches"), without_highest(trees, opposite, 2 / 3, "ches")
    low_drift, high_drift = (_drift(path, tokenizer, third, tmp_path) for third in thirds)
    print("drift of chosen responses, nats: lowest and highest third", low_drift, high_drift)
    assert low_drift > high_drift + 0.3


def _drift(path, tokenizer, trees, folder):
    model = load_model(path, dtype="float32")
    settings = {"learning_rate": 1e-4, "max_steps": 40, "per_device_train_batch_size": 16, "lr_scheduler_type": "constant"}
    arguments = PreferenceConfig(
        output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, monitor_prompts=0, save_strategy="no",
        gradient_checkpointing=False, **settings,
    )  # fmt: skip
    tokens, _ = tokenize(trees, tokenizer)
    before = inspect(model, tokens).edges
    PreferenceTrainer(model, None, arguments, train_dataset=trees, processing_class=tokenizer).train()
    after = inspect(model, tokens).edges
    return sum(b.chosen_logp - a.chosen_logp for a, b in zip(before, after, strict=True)) / len(after)
