"""Pairs for other trainers: trl reads the tokens that are trained here."""

import pytest
from conftest import byte_level_tokenizer, random_model
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from align.engine.export import rendered_pairs
from align.engine.tokenize import tokenize_tree
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree, pairs_from_tree, read_trees, tree_of, write_pairs

ASKED = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Add 2, 3 and 4."}]
NODES = (Node("2 + 3 = 5. "), Node("2 + 3 = 6. "), Node("5 + 4 = 9.", 0, complete=True), Node("5 + 4 = 8.", 0, complete=True))
STEPS = PreferenceTree(ASKED, NODES, (Edge(0, 1, weight=2.0), Edge(2, 3, margin=0.5)))
ANSWERS = PreferenceTree(ASKED, NODES, (Edge(2, 3),))


def path(tree, node):
    return (path(tree, tree.parents[node]) if tree.parents[node] >= 0 else []) + list(tree.tokens[node])


def by_trl(settings, tokenizer, rows, **changes):
    known = {key: value for key, value in settings.items() if key != "monitor_3d"}
    args = DPOConfig(**known, logging_steps=1, learning_rate=1e-3, **changes)
    return DPOTrainer(random_model(), random_model(seed=1), args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@pytest.mark.parametrize("tree", [STEPS, ANSWERS, PreferenceTree(ASKED, NODES[:2], (Edge(0, 1),))], ids=["steps", "answers", "one level"])
@pytest.mark.parametrize("bos", [False, True])
def test_rendered_pairs_are_tokenized_by_trl_as_the_tree_is(tree, bos, settings):
    tok = byte_level_tokenizer(bos)
    tokens = tokenize_tree(tree, tok)
    read = by_trl(settings, tok, list(rendered_pairs(tree, tok))).train_dataset
    for row, (chosen, rejected) in zip(read, tokens.edges, strict=True):
        assert row["prompt_ids"] == path(tokens, tokens.parents[chosen])
        assert (row["chosen_ids"], row["rejected_ids"]) == (list(tokens.tokens[chosen]), list(tokens.tokens[rejected]))


def test_rendered_pairs_are_read_back_as_they_are_trained(tokenizer):
    tokens = tokenize_tree(STEPS, tokenizer)
    for record, (chosen, rejected), weight in zip(rendered_pairs(STEPS, tokenizer), tokens.edges, tokens.weights, strict=True):
        pair = tokenize_tree(tree_of(record), tokenizer)
        assert pair.tokens == [path(tokens, tokens.parents[chosen]), tokens.tokens[chosen], tokens.tokens[rejected]]
        assert pair.weights == [weight]


def test_pairs_of_finished_answers_have_the_whole_path_in_trl(settings, tokenizer):
    tokens = tokenize_tree(ANSWERS, tokenizer)
    (row,) = by_trl(settings, tokenizer, list(pairs_from_tree(ANSWERS))).train_dataset
    assert [row["prompt_ids"] + row[name] for name in ("chosen_ids", "rejected_ids")] == [path(tokens, 3), path(tokens, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tree", "rendered"), [(STEPS, True), (ANSWERS, True), (ANSWERS, False)], ids=["steps", "answers", "whole answers"]
)
def test_trl_trains_on_the_file_as_the_tree_trains_here(tree, rendered, settings, tokenizer, tmp_path):
    tree = PreferenceTree(tree.prompt, tree.nodes, tuple(Edge(edge.chosen, edge.rejected) for edge in tree.edges))
    write_pairs([tree], tmp_path / "flat.jsonl", *([lambda one: rendered_pairs(one, tokenizer)] if rendered else []))
    rows = list(Dataset.from_json(str(tmp_path / "flat.jsonl"), cache_dir=str(tmp_path)))
    args = PreferenceConfig(**settings, logging_steps=1, learning_rate=1e-3, max_steps=1)
    ours = PreferenceTrainer(random_model(), random_model(seed=1), args, train_dataset=[tree], processing_class=tokenizer)
    theirs = by_trl(settings, tokenizer, rows, max_steps=1, per_device_train_batch_size=len(tree.edges))
    logs = []
    for trainer in (ours, theirs):
        trainer.train()
        logs.append(trainer.state.log_history[0])
    names = ["loss", "rewards/margins", *(["logps/chosen", "logps/rejected"] if rendered else [])]
    assert [logs[0][name] for name in names] == pytest.approx([logs[1][name] for name in names], rel=1e-5, abs=1e-5)
    assert not read_trees(tmp_path / "flat.jsonl")[1]
