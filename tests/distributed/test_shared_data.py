"""Ranks of a node read and tokenize a file once, map the same files, and stop together with the same sentence."""

import json
from pathlib import Path

import pytest
import spread

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]


def ranks(folder, name, **data):
    output = folder / name
    output.mkdir()
    spread.run_script("shared_data.py", 2, folder, output, json.dumps(data))
    return [json.loads((output / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shared")
    spread.write_inputs(made)
    lines = (made / "trees.jsonl").read_text(encoding="utf-8").splitlines()
    (made / "mixed.jsonl").write_text("\n".join([*lines, "no JSON", *lines[:3]]) + "\n", encoding="utf-8")
    return made


@pytest.mark.parametrize("data", [{}, {"limit": 20}, {"merge_prompts": True, "limit": 20}], ids=["all", "limit", "merged"])
def test_one_rank_reads_and_all_map_the_same_trees(folder, data):
    name = "-".join(["run", *data])
    first, second = ranks(folder, name, **data)
    assert (first["tokens"], first["list"]) == (second["tokens"], second["list"])
    assert len(first["tokens"]) == data.get("limit", 40)
    assert {Path(file).parent for file in [*first["files"], *second["files"]]} == {Path(first["own"])} != {Path(second["own"])}
    if not data:
        assert [json.loads(line)["where"] for line in (folder / name / "unreadable.jsonl").read_text().splitlines()] == [
            f"{folder / 'mixed.jsonl'} line 38"
        ]


def test_all_ranks_stop_with_the_same_sentence(folder):
    first, second = ranks(folder, "stopped", max_rejected_share=0.0)
    assert first == second
    assert "mixed.jsonl line 38: the line is not JSON (1 of 41 records are unusable" in first["error"]
