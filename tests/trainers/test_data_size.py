"""Data sets of any size: lengths are read without the tokens, a limit ends the reading, and memory does not grow with the records."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer, random_model
from datasets import Dataset

from align import experiment, recipes
from align.trainers import PreferenceConfig
from align.trainers.batches import tree_size, tree_sizes
from align.trainers.collator import token_tree
from align.trainers.data import Preparation, as_dataset
from align.trees import Edge, Node, PreferenceTree, tree_of

ROWS = [{"prompt": f"What of {n}?" * (n % 5 + 1), "chosen": "It is five." * (n % 3 + 1), "rejected": "six"} for n in range(30)]
TREES = [
    PreferenceTree(f"p{n}", tuple(Node("step " * (k + n % 4 + 1), k - 2 if k > 2 else -1) for k in range(n % 3 + 2)), (Edge(0, 1),))
    for n in range(30)
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return str(folder)


def shuffled(dataset):
    return dataset.shuffle(seed=3).select(range(3, 20))


SEEN = {
    "as it is": lambda dataset: dataset, "shuffled": shuffled, "as tensors": lambda dataset: dataset.with_format("torch"),
    "made when read": lambda dataset: dataset.with_transform(lambda rows: rows), "sorted again": lambda d: shuffled(shuffled(d.flatten_indices())),
}  # fmt: skip


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("max_length", [None, 12])
@pytest.mark.parametrize("data", [ROWS, TREES], ids=["pairs", "trees"])
def test_lengths_are_those_of_the_trees(data, max_length, seen, settings, tokenizer):
    prepared = Preparation(tokenizer, PreferenceConfig(**settings), "train")(as_dataset(data))
    dataset = shuffled(prepared.flatten_indices()) if seen == "sorted again" else SEEN[seen](prepared)
    expected = [tree_size(token_tree(example), max_length) for example in dataset.with_format(None)]
    assert tree_sizes(dataset, max_length) == expected
    assert len(set(expected)) > 3 or max_length


def test_token_columns_that_a_user_brings_have_lengths_too():
    rows = {"prompt_ids": [[1, 2], [], [3]], "chosen_ids": [[4], [5, 6], [7]], "rejected_ids": [[8], [9], [1, 2, 3]]}
    assert tree_sizes(Dataset.from_dict(rows), None) == [4, 3, 5]


@pytest.mark.parametrize("made", [Dataset.from_list, list], ids=["a data set", "a list"])
def test_what_is_made_of_records_in_memory_is_on_the_disk(made, settings, tokenizer):
    prepared = Preparation(tokenizer, PreferenceConfig(**settings), "train")(as_dataset(made(ROWS)))
    assert prepared.cache_files


def test_columns_that_nothing_reads_of_a_tokenized_tree_are_not_kept(settings, tokenizer):
    prepared = Preparation(tokenizer, PreferenceConfig(**settings), "train")(as_dataset(TREES))
    assert set(prepared.column_names) == {"node_ids", "node_parents", "edges", "edge_weights", "edge_margins", "id"}
    pairs = Preparation(tokenizer, PreferenceConfig(**settings), "train")(Dataset.from_list(ROWS))
    assert {"prompt", "chosen", "rejected"} < set(pairs.column_names)  # as trl leaves them


def made(model, folder, lines, **data):
    (folder / "pairs.jsonl").write_text("".join(line + "\n" for line in lines))
    training = {"output_dir": str(folder / "run"), "bf16": False, "report_to": "none", "gradient_checkpointing": False, "monitor_3d": False}
    raw = {
        "model": {"name_or_path": model, "dtype": "float32"}, "data": {"train": str(folder / "pairs.jsonl"), **data},
        "training": {**training, "disable_tqdm": True},
    }  # fmt: skip
    return experiment.make_trainer(recipes.parse(raw, "recipe"), model, "run", folder / "run")


def test_a_limit_ends_the_reading(model, tmp_path):
    trainer = made(model, tmp_path, [*map(json.dumps, ROWS), *["no JSON"] * 30], limit=5)
    assert len(trainer.train_dataset) == 5
    assert not (tmp_path / "run" / "unreadable.jsonl").exists()


def test_a_limit_counts_merged_prompts(model, tmp_path):
    rows = [{"prompt": f"p{n % 4}", "chosen": f"good {n}", "rejected": "bad"} for n in range(12)]
    trainer = made(model, tmp_path, map(json.dumps, rows), limit=3, merge_prompts=True)
    assert [len(example["edges"]) for example in trainer.train_dataset] == [3, 3, 3]


def test_errors_after_reading_name_the_line(model, tmp_path):
    tokens = {"prompt": "p", "nodes": [{"text": "a", "token_ids": [5]}, {"text": "b"}], "edges": [{"chosen": 0, "rejected": 1}]}
    made(model, tmp_path, [*map(json.dumps, ROWS), json.dumps(tokens)], max_rejected_share=0.5)
    [kept] = [json.loads(line) for line in (tmp_path / "run" / "rejected-train.jsonl").read_text().splitlines()]
    assert "pairs.jsonl line 31" in kept["where"]
    assert tree_of({**tokens, "id": kept["record"]["id"]}).id == kept["record"]["id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--form", "messages"], ["--training", '{"max_tokens_per_batch": 8192}']], ids=["messages", "a budget"]
)
def test_memory_does_not_grow_with_the_records(options):
    command = [sys.executable, str(ROOT / "scripts" / "bench_data.py"), "--pairs", "2000", "12000", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    few, many = ([float(cell.replace(",", "")) for cell in line.split()] for line in done.stdout.splitlines()[-2:])
    resident, own = (many[column] - few[column] for column in (3, 4))
    assert own * 2**20 < 4500 * 10_000  # bytes a pair: the records alone would be more than 6 kB in Python; -200 to 3,000 were seen
    assert resident * 2**20 < 6000 * 10_000
