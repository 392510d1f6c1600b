"""`align diagnose` on two models and on a run's folder."""

import json

import pytest
from conftest import align, align_here, byte_level_tokenizer, random_model

from align.trees import Edge, Node, PreferenceTree, read_trees, write_trees


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosis")
    for name, seed in (("start", 0), ("tuned", 1)):
        random_model(seed=seed, scale=0.1).save_pretrained(folder / name)
        byte_level_tokenizer().save_pretrained(folder / name)
    trees = [PreferenceTree(f"What is {n}?\n", (Node(f"It is {n}."), Node("No idea.")), (Edge(0, 1),)) for n in range(20)]
    write_trees(trees, folder / "pairs.jsonl")
    return folder


@pytest.mark.slow
def test_two_models_and_a_filter(folder):
    arguments = (
        "--reference",
        folder / "start",
        "--unseen",
        4,
        "--filter",
        0.1,
        "--output",
        folder / "left.jsonl",
        "--edges",
        folder / "edges.jsonl",
    )
    found = align("diagnose", folder / "tuned", folder / "pairs.jsonl", *arguments)
    assert found.returncode == 0, found.stderr
    for text in ("own", "rejected", "drift", "20 pairs; 0 trees left out", "18 of 20 pairs, without the 2 that displace most"):
        assert text in found.stdout
    edges = [json.loads(line) for line in (folder / "edges.jsonl").read_text().splitlines()]
    highest = sorted(edges, key=lambda edge: edge["ches_normalized"])[-2:]
    left, _ = read_trees(folder / "left.jsonl")
    assert {tree.prompt for tree in left} == {f"What is {n}?\n" for n in range(20)} - {f"What is {edge['tree']}?\n" for edge in highest}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--filter", "0.1"), "--filter SHARE and --output FILE go together"),
        (("--filter", "2", "--output", "x.jsonl"), "--filter 2.0: expected a share of the pairs between 0 and 1"),
        (("--filter", "0.1", "--output", "x.jsonl", "--by", "chess"), "--by chess: did you mean 'ches'"),
    ],
)
def test_mistakes_are_said_in_a_sentence(folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = align_here("diagnose", folder / "start", folder / "pairs.jsonl", "--unseen", "0", *arguments)
    assert found.returncode == 2
    assert message in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_is_missing_is_said(folder, tmp_path):
    for arguments, message in (
        ((folder / "start",), "is no run's folder: name the data to look at, too"),
        ((folder / "nowhere", folder / "pairs.jsonl"), "nowhere'"),
        ((folder / "start", folder / "nothing.jsonl"), "nothing.jsonl"),
    ):
        found = align_here("diagnose", *arguments)
        assert found.returncode == 2
        assert message in found.stderr
        assert found.stderr.strip().splitlines()[-1].startswith("align: ")
