"""Conversions lose nothing that the form can hold, and say what it cannot."""

import json

import pytest
from conftest import align_here

from align.trees import Edge, Node, PreferenceTree, read_trees, write_trees

ODD = 'Quotes " and , commas;\ttabs\nand lines, "NA", 1e5, 007, [1, 2], {"a": 1}, é\u2028😀'
TEXTS = [
    PreferenceTree("Q: 007? ", (Node("007", score=1.5), Node("7.0", score=-2.0)), (Edge(0, 1, weight=2.5, margin=0.25),), id="first"),
    PreferenceTree(ODD, (Node(ODD + "!"), Node(" NA")), (Edge(0, 1),)),
    PreferenceTree("[1, 2]", (Node('{"a": 1}'), Node("null")), (Edge(1, 0),)),
]
USER, BOT = ({"role": role, "content": ODD} for role in ("user", "assistant"))
CHATS = [
    PreferenceTree([{"role": "system", "content": "Be brief."}, USER, BOT, USER], (Node("yes"), Node("no")), (Edge(0, 1),)),
    PreferenceTree([USER], (Node(ODD), Node("no")), (Edge(0, 1),), metadata={"tools": [{"name": "look", "parameters": {"é": "ü"}}]}),
]
TREE = PreferenceTree(
    "p ", (Node("a", token_ids=None), Node("b"), Node("c"), Node("d")), (Edge(0, 1), Edge(2, 1)), id="t", metadata={"source": "x"}
)


def converted(tmp_path, trees, target, *further):
    write_trees(trees, tmp_path / "in.jsonl")
    return align_here("convert", tmp_path / "in.jsonl", tmp_path / target, *further)


def _pair(tree, edge):
    """What a pair's form holds of an edge: its chosen node first."""
    nodes = (tree.nodes[edge.chosen], tree.nodes[edge.rejected])
    return PreferenceTree(tree.prompt, nodes, (Edge(0, 1, edge.weight, edge.margin),), id=tree.id, metadata=tree.metadata)


@pytest.mark.parametrize("target", ["out.jsonl", "out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("trees", [TEXTS, CHATS], ids=["texts", "messages"])
def test_pairs_come_back_as_they_were(trees, target, tmp_path):
    done = converted(tmp_path, trees, target)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not in it" not in done.stdout
    read, rejected = read_trees(tmp_path / target)
    assert not rejected
    assert read == [_pair(tree, edge) for tree in trees for edge in tree.edges]


@pytest.mark.parametrize("target", ["out.jsonl", "out.parquet"])
def test_trees_come_back_as_they_were(target, tmp_path):
    trees = [TREE, *CHATS]
    assert converted(tmp_path, trees, target, "--form", "trees").returncode == 0
    assert read_trees(tmp_path / target)[0] == trees


def test_llama_factorys_form_comes_back_and_is_registered(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"other": {"file_name": "o.json"}}')
    done = converted(tmp_path, CHATS, "mine.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not in it" not in done.stdout
    assert read_trees(tmp_path / "mine.json")[0] == CHATS
    registered = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(registered) == ["other", "mine"]
    assert registered["mine"] == {
        "file_name": "mine.json", "ranking": True, "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system", "tools": "tools"},
    }  # fmt: skip
    first = json.loads((tmp_path / "mine.json").read_text())[0]
    assert [turn["from"] for turn in first["conversations"]] == ["human", "gpt", "human"]
    assert (first["system"], first["chosen"]) == ("Be brief.", {"from": "gpt", "value": "yes"})


def test_what_a_form_cannot_hold_is_said(tmp_path):
    done = converted(tmp_path, [TREE, TEXTS[0]], "out.csv")
    for lost in ("that several pairs are of one tree", "nodes in no preference", "metadata"):
        assert f"not in it, for 1 of them: {lost}" in done.stdout
    done = converted(tmp_path, TEXTS, "out.json")
    assert "not in it, for 3 of them: that the prompt is text without a template" in done.stdout
    assert "not in it, for 1 of them: weights, margins and scores" in done.stdout


def test_unusable_records_are_kept_aside_and_counted(tmp_path):
    (tmp_path / "in.csv").write_text("q,good,bad\na,b,c\na,b\na,b,b\n")
    done = align_here("convert", tmp_path / "in.csv", tmp_path / "out.jsonl", "--columns", "prompt=q", "chosen=good", "rejected=bad")
    assert done.returncode == 0
    assert "1 pairs from 1 record" in done.stdout
    assert "2 more records cannot be used" in done.stderr
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out.jsonl.set-aside.jsonl").read_text().splitlines()]
    assert ["2 cells" in reasons[0], "the same response" in reasons[1]] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["in.jsonl", "out.xlsx"], "pairs are written to files that end in .jsonl"),
        (["in.jsonl", "in.jsonl"], "it is the file that is read"),
        (["in.jsonl", "out.json", "--form", "trees"], "--form llama-factory goes there"),
        (["none.jsonl", "out.jsonl"], "no such file"),
        (["in.jsonl", "out.jsonl", "--columns", "prompt"], "expected NAME=COLUMN"),
        (["in.jsonl", "out.jsonl", "--columns", "promt=q"], "did you mean 'prompt'"),
        (["empty.jsonl", "out.jsonl"], "there is no record in it"),
    ],
)
def test_mistakes_are_one_sentence_and_lose_nothing(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_trees(TEXTS, "in.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    before = (tmp_path / "in.jsonl").read_bytes()
    done = align_here("convert", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert (tmp_path / "in.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "in.jsonl"]


def test_what_is_there_already_is_not_written_over(tmp_path):
    (tmp_path / "out.jsonl").write_text("precious")
    done = converted(tmp_path, [TREE], "out.jsonl")
    assert done.returncode == 2
    assert "out.jsonl is there already: give another name, or --overwrite" in done.stderr
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    assert converted(tmp_path, [TREE], "out.jsonl", "--overwrite").returncode == 0
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["chosen"] == "a"


@pytest.mark.parametrize("registry", ['{"one": {}, "two": {}}', "[]", "{"])
def test_the_registry_of_data_sets_stays_whole(tmp_path, registry):
    (tmp_path / "dataset_info.json").write_text(registry)
    done = converted(tmp_path, [TREE], "dataset_info.json", "--overwrite")
    assert done.returncode == 2
    assert "data sets are registered there" in done.stderr
    assert (tmp_path / "dataset_info.json").read_text() == registry
    if registry.startswith('{"'):
        assert converted(tmp_path, [TREE], "three.json").returncode == 0
        assert list(json.loads((tmp_path / "dataset_info.json").read_text())) == ["one", "two", "three"]
    else:
        assert converted(tmp_path, [TREE], "three.json").returncode == 2
        assert not (tmp_path / "three.json").exists()
