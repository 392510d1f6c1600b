"""The tree type, its files, and its converters."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import AlignError
from align.trees import (
    Edge,
    Node,
    PreferenceTree,
    from_record,
    only_trained,
    pairs_from_tree,
    read_trees,
    to_record,
    to_row,
    tree_from_pair,
    trees_from_pairs,
    write_pairs,
    write_trees,
)

STEPS = PreferenceTree(
    "Question?\n",
    (Node("a. ", score=1.0), Node("b. ", score=0.0, metadata={"votes": 3}), Node("c", 0, complete=True), Node("d", 0, token_ids=(5, 6))),
    (Edge(0, 1), Edge(2, 3, weight=2.0, margin=0.5)),
    id="q1",
)

BROKEN = {
    "no nodes": ({"prompt": "p", "nodes": []}, "`nodes` is empty"),
    "missing prompt": ({"nodes": [{"text": "a"}]}, "`prompt` is missing"),
    "empty response": ({"prompt": "p", "nodes": [{"text": ""}]}, r"nodes\[0\].text is empty"),
    "own parent": ({"prompt": "p", "nodes": [{"text": "a", "parent": 0}]}, "cycle"),
    "cycle": ({"prompt": "p", "nodes": [{"text": "a", "parent": 1}, {"text": "b", "parent": 0}]}, "cycle"),
    "wrong parent": ({"prompt": "p", "nodes": [{"text": "a", "parent": 7}]}, r"nodes\[0\].parent is 7"),
    "no siblings": (
        {"prompt": "p", "nodes": [{"text": "a"}, {"text": "b", "parent": 0}], "edges": [{"chosen": 0, "rejected": 1}]},
        "are not siblings",
    ),
    "edge to nowhere": ({"prompt": "p", "nodes": [{"text": "a"}], "edges": [{"chosen": 0, "rejected": 3}]}, "names node 3"),
    "edge to itself": ({"prompt": "p", "nodes": [{"text": "a"}], "edges": [{"chosen": 0, "rejected": 0}]}, "over itself"),
    "NaN score": ({"prompt": "p", "nodes": [{"text": "a", "score": float("nan")}]}, r"nodes\[0\].score is nan"),
    "NaN weight": (
        {"prompt": "p", "nodes": [{"text": "a"}, {"text": "b"}], "edges": [{"chosen": 0, "rejected": 1, "weight": float("nan")}]},
        "weight is nan",
    ),
    "misspelt key": ({"prompt": "p", "nodes": [{"text": "a", "parrent": 0}]}, "did you mean 'parent'"),
    "text is a number": ({"prompt": "p", "nodes": [{"text": 3}]}, "expected text"),
    "empty prompt": ({"prompt": " ", "nodes": [{"text": "a"}]}, "`prompt` is empty"),
    "prompt is a number": ({"prompt": 3, "nodes": [{"text": "a"}]}, "`prompt` is int"),
    "prompt without a role": ({"prompt": [{"content": "a"}], "nodes": [{"text": "a"}]}, "without a role"),
    "content of a number": ({"prompt": [{"role": "user", "content": 3}], "nodes": [{"text": "a"}]}, r"prompt\[0\].content` is int"),
    "content null": ({"prompt": "p", "nodes": [{"text": [{"role": "assistant", "content": None}]}]}, r"text\[0\].content` is null"),
    "parent between two nodes": ({"prompt": "p", "nodes": [{"text": "a"}, {"text": "b", "parent": 0.5}]}, "the number of a node"),
    "parent NaN": ({"prompt": "p", "nodes": [{"text": "a", "parent": float("nan")}]}, "the number of a node"),
    "token ids with a hole": ({"prompt": "p", "nodes": [{"text": "a", "token_ids": [1, None]}]}, "expected a list of token ids"),
    "token ids of text": ({"prompt": "p", "nodes": [{"text": "a", "token_ids": "12"}]}, "expected a list of token ids"),
    "prompt ids of text": ({"prompt": "p", "prompt_token_ids": ["a"], "nodes": [{"text": "a"}]}, "expected a list of token ids"),
    "metadata of text": ({"prompt": "p", "nodes": [{"text": "a"}], "metadata": "yes"}, "not JSON"),
    "metadata of a list": ({"prompt": "p", "nodes": [{"text": "a"}], "metadata": [1]}, "metadata is list"),
    "complete of a word": ({"prompt": "p", "nodes": [{"text": "a", "complete": "yes"}]}, "expected true or false"),
    "nodes of one node": ({"prompt": "p", "nodes": {"text": "a"}}, "expected a list"),
    "half a character": ({"prompt": "p", "nodes": [{"text": "\ud83d"}]}, "half a character"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tree_is_named_in_one_sentence(name):
    record, message = BROKEN[name]
    with pytest.raises(AlignError, match=message):
        from_record(record)


def test_record_round_trip():
    assert from_record(json.loads(json.dumps(to_record(STEPS)))) == STEPS


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_file_round_trip(tmp_path, suffix):
    path = tmp_path / f"trees.{suffix}"
    other = PreferenceTree("p", (Node("x"), Node("y")), (Edge(1, 0),))
    write_trees([STEPS, other], path)
    trees, rejected = read_trees(path)
    assert not rejected
    assert trees == [STEPS, other]


def test_children_before_parents_are_put_in_order():
    tree = from_record(
        {
            "prompt": "p",
            "nodes": [{"text": "leaf", "parent": 2}, {"text": "other", "parent": 2}, {"text": "step"}],
            "edges": [{"chosen": 0, "rejected": 1}],
        }
    )
    assert [node.text for node in tree.nodes] == ["step", "leaf", "other"]
    assert tree.edges == (Edge(1, 2),)


def test_corrupt_line_is_named_and_kept(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "cho\n{"prompt": "p", "chosen": "", "rejected": "b"}\n'
    )
    trees, rejected = read_trees(path)
    assert len(trees) == 1
    assert [(r.where.split()[-1], r.reason) for r in rejected] == [
        ("2", "the line is not JSON"),
        ("3", "`chosen` is empty: a response needs at least one character"),
    ]
    assert rejected[0].record == '{"prompt": "p", "cho'


def test_implicit_prompts_are_found():
    text = tree_from_pair({"chosen": "Q: 1+1? A: two", "rejected": "Q: 1+1? A: five"})
    assert (text.prompt, text.nodes[0].text, text.nodes[1].text) == ("Q: 1+1? A:", " two", " five")
    user, good, bad = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "No"}
    chat = tree_from_pair({"prompt": "Hi", "chosen": [user, good], "rejected": [user, bad]})  # UltraFeedback's shape
    assert (chat.prompt, chat.nodes[0].text) == ([user], "Hello")


def test_pairs_with_one_prompt_become_one_tree():
    rows = [("p", "a", "b"), ("q", "x", "y"), ("p", "a", "c"), ("p", "c", "b"), ("p", "a", "b")]
    trees = trees_from_pairs(dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows)
    assert [len(tree.nodes) for tree in trees] == [3, 2]
    assert trees[0].edges == (Edge(0, 1, weight=2.0), Edge(0, 2), Edge(2, 1))


def test_tree_exports_as_pairs_for_other_trainers(tmp_path):
    first, second = pairs_from_tree(STEPS)
    assert first["prompt"] == "Question?\n"
    assert second == {"prompt": "Question?\na. ", "chosen": "c", "rejected": "d", "margin": 0.5, "weight": 2.0}
    write_pairs([STEPS], tmp_path / "pairs.jsonl")
    assert len(read_trees(tmp_path / "pairs.jsonl")[0]) == 2


def test_messages_of_other_frameworks_are_read_in_trees_too():
    turns = [{"from": "human", "value": "Hi"}]
    tree = from_record({"prompt": turns, "nodes": [{"text": "a"}, {"text": [{"from": "gpt", "value": "b"}]}], "edges": []})
    assert (tree.prompt, tree.nodes[1].text) == ([{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "b"}])


def test_what_chat_templates_read_stays_with_a_trained_tree():
    tree = replace(STEPS, metadata={"tools": [], "chat_template_kwargs": {"thinking": True}, "search": 1})
    assert only_trained(tree).metadata == {"tools": [], "chat_template_kwargs": {"thinking": True}}


@given(st.lists(st.tuples(st.integers(0, 100), st.text(min_size=1, max_size=5), st.floats(-5, 5)), min_size=2, max_size=12))
@pytest.mark.slow
def test_any_tree_survives_its_record(raw):
    nodes = tuple(Node(text, parent=where % (i + 1) - 1, score=score) for i, (where, text, score) in enumerate(raw))
    siblings = [(i, j) for i in range(len(nodes)) for j in range(i) if nodes[i].parent == nodes[j].parent]
    tree = PreferenceTree("prompt", nodes, tuple(Edge(i, j) for i, j in siblings[:3]))
    assert from_record(to_record(tree)) == from_record(to_row(tree)) == tree
