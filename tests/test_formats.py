"""What docs/formats.md promises about files that earlier versions wrote."""

from align.trees import Edge, Node, PreferenceTree, read_trees

TREE = """{"prompt": "Add 2, 3 and 4.\\n", "nodes": [{"text": "2 + 3 = 5. ", "parent": -1}, {"text": "2 + 3 = 6. ", "parent": -1}, \
{"text": "5 + 4 = 9.", "parent": 0, "complete": true}, {"text": "5 + 4 = 8.", "parent": 0, "complete": true}], \
"edges": [{"chosen": 0, "rejected": 1, "weight": 0.5}, {"chosen": 2, "rejected": 3, "margin": 0.1}], "metadata": {"a": 1}}
"""
"""Written by `write_trees` of 0.1.0."""
PAIRS = """{"prompt": "Add 2, 3 and 4.\\n", "chosen": "2 + 3 = 5. ", "rejected": "2 + 3 = 6. ", "weight": 0.5, "a": 1}
{"prompt": "Add 2, 3 and 4.\\n2 + 3 = 5. ", "chosen": "5 + 4 = 9.", "rejected": "5 + 4 = 8.", "margin": 0.1, "a": 1}
"""
"""Written by `write_pairs` of 0.1.0."""


def test_trees_of_0_1_are_read(tmp_path):
    (tmp_path / "trees.jsonl").write_text(TREE)
    trees, unusable = read_trees(str(tmp_path / "trees.jsonl"))
    nodes = (Node("2 + 3 = 5. "), Node("2 + 3 = 6. "), Node("5 + 4 = 9.", 0, complete=True), Node("5 + 4 = 8.", 0, complete=True))
    edges = (Edge(0, 1, weight=0.5), Edge(2, 3, margin=0.1))
    assert trees == [PreferenceTree(prompt="Add 2, 3 and 4.\n", nodes=nodes, edges=edges, metadata={"a": 1})]
    assert not unusable


def test_pairs_of_0_1_are_read(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    trees, unusable = read_trees(str(tmp_path / "pairs.jsonl"))
    assert [tree.edges[0] for tree in trees] == [Edge(0, 1, weight=0.5), Edge(0, 1, margin=0.1)]
    assert [tree.nodes[0].text for tree in trees] == ["2 + 3 = 5. ", "5 + 4 = 9."]
    assert not unusable
