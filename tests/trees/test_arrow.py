"""Trees on the disk: written as they come, merged without holding them, and gone with the process that wrote them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from align.errors import AlignError
from align.trees import (
    Edge,
    Node,
    PreferenceTree,
    Rejected,
    UnusableRecords,
    from_record,
    merge_prompts,
    merged_dataset,
    on_disk,
    to_record,
    tree_dataset,
    tree_from_pair,
)  # fmt: skip

PAIRS = [tree_from_pair({"prompt": f"p{n % 7}", "chosen": f"a{n}", "rejected": f"b{n % 3}"}) for n in range(1200)]
DEEPER = PreferenceTree("p1", (Node("x"), Node("y"), Node("z", 0)), (Edge(0, 1),))


def records(trees):
    return [to_record(tree) for tree in trees]


def test_no_more_than_a_batch_of_trees_is_held():
    alive, most = 0, 0

    class Counted(str):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def made():
        nonlocal alive, most
        for n in range(3000):
            alive += 1
            most = max(most, alive)
            yield PreferenceTree(Counted(f"p{n}"), (Node("a"), Node("b")), (Edge(0, 1),))

    dataset = tree_dataset(made())
    assert len(dataset) == 3000
    assert most <= 1001
    assert dataset[2999]["prompt"] == "p2999"


@pytest.mark.parametrize("trees", [[], PAIRS[:1], PAIRS, [DEEPER, *PAIRS[:20], DEEPER]], ids=["none", "one", "many", "deeper"])
def test_what_is_written_is_read(trees):
    dataset = tree_dataset(iter(trees))
    assert records(map(from_record, dataset)) == records(trees)
    assert len(dataset.cache_files) == 1


@pytest.mark.parametrize("trees", [PAIRS, [DEEPER, *PAIRS[:20], DEEPER], PAIRS[:7]], ids=["many", "deeper", "all different"])
def test_prompts_are_merged_as_in_memory(trees):
    assert records(map(from_record, merged_dataset(iter(trees)))) == records(merge_prompts(trees))


def test_a_data_set_in_memory_is_the_same_on_the_disk():
    dataset = Dataset.from_list([{"prompt": "p", "turns": [{"role": "user", "n": n}], "none": None} for n in range(1100)])
    written = on_disk(dataset)
    assert written.features == dataset.features
    assert list(written) == list(dataset)
    assert not dataset.cache_files
    assert written.cache_files


# Files

MAKES = """
import os, signal, sys
from align.trees import scratch_file
path = scratch_file("rows")
open(path, "w").close()
if not os.fork():
    sys.exit()  # what a forked process does at its end must not touch the files
os.wait()
assert os.path.exists(path)
print(path, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "waits":
    sys.stdin.read()
"""


def start(folder, what):
    return subprocess.Popen(
        [sys.executable, "-c", MAKES, what], env={**os.environ, "HF_DATASETS_CACHE": str(folder)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process):
    path = Path(process.stdout.readline().strip())
    process.communicate()
    return path


@pytest.mark.slow
def test_files_go_with_the_process_and_those_of_a_killed_one_with_the_next(tmp_path):
    waiting = start(tmp_path, "waits")
    in_use = Path(waiting.stdout.readline().strip())
    killed = start(tmp_path, "killed")
    left = end(killed)
    assert killed.returncode == -signal.SIGKILL
    assert left.exists()
    assert not end(start(tmp_path, "ends")).parent.exists()
    assert not left.parent.exists()
    assert in_use.exists()
    waiting.communicate()
    assert not in_use.exists()
    assert not list((tmp_path / "align").iterdir())


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    process = start(tmp_path / "file", "ends")
    path = end(process)
    assert process.returncode == 0
    assert tmp_path not in path.parents


# Unusable records


def test_unusable_records_are_written_as_they_come(tmp_path):
    with UnusableRecords(tmp_path / "aside.jsonl") as unusable:
        for n in range(3):
            unusable.add(Rejected(f"line {n}", "bad", {"n": n}))
        assert not (tmp_path / "aside.jsonl").exists()
        unusable.check(7, 0.5)
    assert (unusable.count, unusable.first.where) == (3, "line 0")
    assert len((tmp_path / "aside.jsonl").read_text().splitlines()) == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_while_reading_leaves_the_file_of_before(tmp_path):
    def broken():
        with UnusableRecords(tmp_path / "aside.jsonl") as unusable:
            unusable.add(Rejected("line 0", "bad", {}))
            raise AlignError("broken")

    (tmp_path / "aside.jsonl").write_text("before")
    with pytest.raises(AlignError, match="broken"):
        broken()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
