"""From search trees to preferences: CPO's rule, on made-up trees, on 50 real searches of GPT-4, and in training."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import align_here, byte_level_tokenizer, random_model
from hypothesis import given
from hypothesis import strategies as st

from align.errors import AlignError
from align.runs import Journal, Task
from align.trees import ROOT, Node, PreferenceTree, only_trained, pairs_from_tree, path_text, to_record
from data_pipelines.thought_trees.edges import EdgeRules, kept_leaves, statistics, with_response_edges, with_step_edges
from data_pipelines.thought_trees.logs import read_tot_log
from data_pipelines.thought_trees.stages import make_edges
from data_pipelines.thought_trees.tasks import load_task


def by_the_rule(tree, kept):
    """CPO's pairs, written down once more: for each kept path and each step, over its siblings off all kept paths whose text is not kept
    at this step after another path either (`clean_dataset.py` leaves out what is among the step's positive texts)."""
    on_path = {tuple(tree.path(leaf)[: i + 1]) for leaf in kept for i in range(len(tree.path(leaf)))}
    said = {(len(path), " ".join(tree.nodes[path[-1]].text.lower().split())) for path in on_path}
    pairs = set()
    for path in on_path:
        for other in range(len(tree.nodes)):
            sibling = tuple(tree.path(other))
            text = " ".join(tree.nodes[other].text.lower().split())
            if sibling[:-1] == path[:-1] and sibling not in on_path and tree.nodes[other].score is not None:
                if (len(sibling), text) in said:
                    continue
                pairs.add((path[-1], other))
    return pairs


def check_rules(tree, kept):
    """Every edge of a tree against the rule, and what it becomes as a pair."""
    on_path = {node for leaf in kept for node in tree.path(leaf)}
    for edge in tree.edges:
        assert tree.nodes[edge.chosen].parent == tree.nodes[edge.rejected].parent
        assert edge.chosen in on_path
        assert edge.rejected not in on_path
    assert {(edge.chosen, edge.rejected) for edge in tree.edges} == by_the_rule(tree, kept)
    for edge, pair in zip(tree.edges, pairs_from_tree(replace(tree, metadata={})), strict=True):
        parent = tree.nodes[edge.chosen].parent
        assert pair["prompt"] == tree.prompt + (path_text(tree, tree.path(parent)) if parent != ROOT else "")
        assert (pair["chosen"], pair["rejected"]) == (tree.nodes[edge.chosen].text, tree.nodes[edge.rejected].text)


@st.composite
def searches(draw):
    """Trees of any shape, with values and one to three kept leaves; now and then a thought that nobody could judge."""
    count = draw(st.integers(1, 25))
    scores = st.sampled_from([None, 0.0, 1.0, 2.0])
    nodes = tuple(
        Node(f"t{draw(st.integers(0, 9))} ", draw(st.integers(-1, i - 1)), (i + 5,), draw(scores), complete=False) for i in range(count)
    )
    inner = {node.parent for node in nodes}
    leaves = [i for i in range(count) if i not in inner]
    kept = draw(st.lists(st.sampled_from(leaves), min_size=1, max_size=3, unique=True))
    gold = draw(st.lists(st.sampled_from(leaves), max_size=2, unique=True))
    search = {
        "kept": kept, "gold_nodes": gold, "answers": {str(i): "x" for i in leaves}, "right": bool(set(kept) & set(gold)),
        "dropped": {"duplicates": 2}, "cost": {"tokens": 7},
    }  # fmt: skip
    return PreferenceTree("q ", nodes, prompt_token_ids=(3, 4), id=str(draw(st.integers())), metadata={"search": search})


@given(searches())
def test_edges_are_those_of_the_rule(tree):
    check_rules(with_step_edges(tree, EdgeRules()), tree.metadata["search"]["kept"])
    check_rules(with_step_edges(tree, EdgeRules(paths="gold")), tree.metadata["search"]["gold_nodes"])


@given(searches(), st.integers(1, 3))
def test_gap_and_cap_only_take_away(tree, cap):
    all_of_them = {(e.chosen, e.rejected) for e in with_step_edges(tree, EdgeRules()).edges}
    scored = [tree.nodes[i].score for i in range(len(tree.nodes))]
    apart = {(e.chosen, e.rejected) for e in with_step_edges(tree, EdgeRules(min_gap=1.0)).edges}
    assert apart == {(c, r) for c, r in all_of_them if scored[c] is not None and scored[r] is not None and scored[c] - scored[r] >= 1.0}
    capped = {(e.chosen, e.rejected) for e in with_step_edges(tree, EdgeRules(cap=cap)).edges}
    assert capped <= all_of_them
    assert Counter(c for c, _ in capped) == {c: min(cap, n) for c, n in Counter(c for c, _ in all_of_them).items()}


@given(searches())
def test_what_is_trained_on_are_the_same_pairs_in_the_smallest_tree(tree):
    whole = with_step_edges(tree, EdgeRules())
    if not whole.edges:
        return
    small = only_trained(whole)
    bare = replace(whole, metadata={})
    assert list(pairs_from_tree(small)) == list(pairs_from_tree(bare))
    needed = {node for edge in whole.edges for end in (edge.chosen, edge.rejected) for node in whole.path(end)}
    assert len(small.nodes) == len(needed)


@given(searches())
def test_whole_responses_are_the_joined_paths_and_only_final_ones(tree):
    made = with_response_edges(tree, EdgeRules())
    leaves = [int(node) for node in tree.metadata["search"]["answers"]]
    assert [node.text for node in made.nodes] == [path_text(tree, tree.path(leaf)) for leaf in leaves]
    assert [list(node.token_ids) for node in made.nodes] == [
        [t for i in tree.path(leaf) for t in tree.nodes[i].token_ids] for leaf in leaves
    ]
    for edge in made.edges:
        assert leaves[edge.chosen] in kept_leaves(tree)
        assert leaves[edge.rejected] not in kept_leaves(tree)


def test_statistics_count_what_there_is():
    nodes = (Node("a", score=1.0), Node("b", score=0.0), Node("c", 0, score=1.0), Node("d", 0, score=0.0), Node("e", 0, score=1.0))
    search = {"kept": [2], "gold_nodes": [2], "answers": {"2": "x"}, "right": True, "dropped": {"duplicates": 3}, "cost": {"tokens": 10}}
    tree = with_step_edges(PreferenceTree("q", nodes, metadata={"search": search}), EdgeRules())
    found = statistics([tree], {"other": "no answer"}, [{"tokens": 4}])
    assert (found["questions"], found["set_aside"], found["reasons"]) == (2, 1, {"no answer": 1})
    assert (found["edges"], found["edges_by_step"], found["thoughts"]) == (3, {"1": 1, "2": 2}, 5)
    assert (found["accuracy"], found["dropped"], found["tokens_a_question"]) == (0.5, {"duplicates": 3}, 7)


@pytest.mark.parametrize(("scores", "warned"), [((1.0, 1.0, 1.0), True), ((1.0, 0.0, 0.5), False), ((1.0, 1.0, 0.0), False)])
def test_pairs_of_equal_value_are_counted_and_said_where_they_are_most(tmp_path, caplog, scores, warned):
    nodes = tuple(Node(text, score=score) for text, score in zip("abc", scores, strict=True))
    search = {"kept": [0], "gold_nodes": [0], "answers": {"0": "x"}, "right": True, "dropped": {}, "cost": {}}
    tree = PreferenceTree("q", nodes, metadata={"search": search}, id="q")
    Journal(tmp_path / "searches").append([("q", {"tree": to_record(tree)})])
    with caplog.at_level("WARNING"):
        make_edges(Task("edges", tmp_path, {"seed": 0}, {"searches": str(tmp_path / "searches")}))
    counted = json.loads((tmp_path / "statistics.json").read_text())["edges_by_value"]
    assert counted["equal"] == sum(score == scores[0] for score in scores[1:])
    assert counted["equal"] + counted["higher"] == 2
    assert ("pairs join thoughts of equal value" in caplog.text) == warned


@pytest.fixture(scope="module")
def game24(shared_data):
    return shared_data / "game24_tot" / "gpt4-trees-first50.json"


@pytest.mark.parametrize("keep", ["answers", "selected"])
def test_real_searches_of_gpt4_give_edges_by_the_rule(game24, keep):
    trees, rejected = read_tot_log(game24, load_task("game24"), keep)
    assert len(trees) + len(rejected) == 50
    assert {one.reason for one in rejected} == ({"no final thought states an answer that can be read"} if keep == "answers" else set())
    assert len(trees) == {"answers": 36, "selected": 50}[keep]
    for tree in trees:
        whole = with_step_edges(tree, EdgeRules())
        assert whole.edges
        check_rules(whole, tree.metadata["search"]["kept"])


def test_the_grader_agrees_with_the_log_on_every_selected_answer(game24):
    task = load_task("game24")
    for record, tree in zip(json.loads(game24.read_text()), read_tot_log(game24, task, "selected")[0], strict=True):
        for kept, info in zip(tree.metadata["search"]["kept"], record["infos"], strict=True):
            assert (kept in tree.metadata["search"]["gold_nodes"]) == bool(info["r"])


def test_a_log_of_another_kind_is_refused(tmp_path):
    (tmp_path / "log.json").write_text('[{"steps": [{"x": "1 2 3 4", "ys": [""], "new_ys": ["a"], "values": []}]}, 7]')
    trees, rejected = read_tot_log(tmp_path / "log.json", load_task("game24"))
    assert not trees
    assert [one.reason for one in rejected] == [
        "steps[0]: expected `ys`, `new_ys` and as many `values`", "`steps` is missing: a search has the candidates of every step",
    ]  # fmt: skip
    (tmp_path / "log.json").write_text("{}")
    with pytest.raises(AlignError, match="expected a list of searches"):
        read_tot_log(tmp_path / "log.json", load_task("game24"))


GOOD = {"x": "4 5 6 10", "ys": [""], "new_ys": ["a\n", "b\n"], "values": [1.0, 2.0], "select_new_ys": ["b\n"]}
BROKEN = {
    "a record that is null": (None, r"`steps` is missing"),
    "a step that is null": ({"steps": [None]}, r"steps\[0\]: expected `ys`, `new_ys` and as many `values`"),
    "candidates that are null": ({"steps": [{**GOOD, "new_ys": None}]}, r"steps\[0\]: expected `ys`"),
    "a candidate that is null": ({"steps": [{**GOOD, "new_ys": ["a", None]}]}, r"steps\[0\].new_ys\[1\] is null: expected text"),
    "a candidate that is a list": ({"steps": [{**GOOD, "new_ys": ["a", ["b"]]}]}, r'steps\[0\].new_ys\[1\] is \["b"\]: expected text'),
    "a candidate without text": ({"steps": [{**GOOD, "new_ys": ["a", ""]}]}, r"steps\[0\].new_ys\[1\] is empty"),
    "half a character": ({"steps": [{**GOOD, "new_ys": ["a", "\ud83d"]}]}, r"steps\[0\].new_ys\[1\] is .*: expected text"),
    "a value that is null": ({"steps": [GOOD, {**GOOD, "ys": ["b\n"], "new_ys": ["b\nc"], "values": [None]}]}, r"steps\[1\].values\[0\] is null"),
    "a value that is text": ({"steps": [{**GOOD, "values": [1, "2"]}]}, r'steps\[0\].values\[1\] is "2": expected a finite number'),
    "a value that is no number": ({"steps": [{**GOOD, "values": [1, float("nan")]}]}, r"steps\[0\].values\[1\] is NaN"),
    "a value beyond floats": ({"steps": [{**GOOD, "values": [1, 10**400]}]}, r"steps\[0\].values\[1\] is 1000"),
    "a question that is null": ({"steps": [{**GOOD, "x": None}]}, r"steps\[0\].x is missing"),
    "a path that is null": ({"steps": [{**GOOD, "ys": [None]}]}, r"steps\[0\].ys\[0\] is null: expected text"),
    "a parent that no step proposed": ({"steps": [GOOD, {**GOOD, "ys": ["z\n"], "new_ys": ["z\nc"], "values": [1]}]}, r"steps\[1\]: the candidate .* continues none"),
    "no candidates at the end": ({"steps": [GOOD, {**GOOD, "new_ys": [], "values": []}]}, r"the last step has no candidates"),
    "a selection that is null": ({"steps": [{**GOOD, "select_new_ys": None}]}, r"steps\[0\].select_new_ys is missing"),
    "a selection nobody proposed": ({"steps": [{**GOOD, "select_new_ys": ["z"]}]}, r'steps\[0\].select_new_ys\[0\] is "z": no candidate'),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_search_in_a_log_is_set_aside_with_its_reason_and_the_others_are_read(name, tmp_path):
    record, reason = BROKEN[name]
    (tmp_path / "log.json").write_text(json.dumps([record, {"steps": [GOOD]}]))
    trees, rejected = read_tot_log(tmp_path / "log.json", load_task("game24"), "selected")
    assert len(trees) == 1
    (aside,) = rejected
    assert re.match(reason, aside.reason), aside.reason
    assert aside.where.endswith("record 0")


def test_import_search_keeps_what_it_sets_aside_with_the_reason(tmp_path):
    (tmp_path / "log.json").write_text(json.dumps([BROKEN["half a character"][0], None, {"steps": [GOOD]}]))
    done = align_here("import-search", tmp_path / "log.json", tmp_path / "trees.jsonl", "--task", "game24", "--keep", "selected")
    assert done.returncode == 0, done.stderr
    assert "1 trees, 1 edges; 2 searches set aside" in done.stdout
    aside = [json.loads(line) for line in (tmp_path / "trees.set-aside.jsonl").read_text().splitlines()]
    assert [set(record) for record in aside] == [{"where", "reason", "record"}] * 2
    assert aside[0]["record"] == BROKEN["half a character"][0]
    (tmp_path / "log.json").write_text(json.dumps([None]))
    done = align_here("import-search", tmp_path / "log.json", tmp_path / "none.jsonl", "--task", "game24")
    assert done.returncode == 2
    assert "no preference can be made of its 1 searches" in done.stderr


@given(searches())
def test_every_kept_thought_counts_once_where_thoughts_are_weighed(tree):
    weighed = with_step_edges(tree, EdgeRules(weight="thought")).edges
    plain = with_step_edges(tree, EdgeRules()).edges
    assert [(e.chosen, e.rejected) for e in weighed] == [(e.chosen, e.rejected) for e in plain]
    assert all(edge.weight == 1.0 for edge in plain)
    for chosen in {edge.chosen for edge in weighed}:
        assert sum(edge.weight for edge in weighed if edge.chosen == chosen) == pytest.approx(1.0)


@pytest.mark.slow
def test_real_searches_train_a_small_llama(game24, settings):
    from align.trainers import PreferenceConfig, PreferenceTrainer

    trees = [only_trained(with_step_edges(t, EdgeRules())) for t in read_tot_log(game24, load_task("game24"), "selected")[0]]
    model = random_model(scale=0.05)
    model.config.max_position_embeddings = 2048
    from peft import LoraConfig

    args = PreferenceConfig(
        **settings, max_steps=25, per_device_train_batch_size=2, learning_rate=5e-3, logging_steps=5, max_tokens_per_batch=None
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = PreferenceTrainer(model, args=args, train_dataset=trees, processing_class=byte_level_tokenizer(), peft_config=lora)
    assert len(trainer.train_dataset) == 50
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in logged)
    assert logged[-1]["loss"] < logged[0]["loss"] < 0.7
    assert logged[-1]["rewards/accuracies"] > 0.6
