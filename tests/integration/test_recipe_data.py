"""Recipes on preference sets as they are found: read as the trainer reads them, also in a round that mixes them with samples."""

import json
import math

import pytest
from conftest import align_here, byte_level_tokenizer, random_model
from datasets import Dataset
from preference_forms import ASKED, BAD, CALL, GOOD, PAIR, READ, TOOL, UNUSABLE, Q

from align import experiment, recipes
from align.engine.tokenize import tokenize_tree
from align.errors import AlignError
from align.runs import Journal, Task
from align.trainers.collator import token_tree
from align.trees import Node, PreferenceTree, read_trees, tree_of, write_trees
from data_pipelines.implicit_rewards.pairing import pair


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def training(folder, **changes):
    settings = {
        "output_dir": str(folder / "run"),
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return {**settings, "monitor_3d": False, "save_strategy": "no", "logging_steps": 1, "max_length": 512, **changes}


def made(model_folder, folder, data, **changes):
    raw = {"model": {"name_or_path": str(model_folder), "dtype": "float32"}, "data": data, "training": training(folder, **changes)}
    return experiment.make_trainer(recipes.parse(raw, "recipe"), str(model_folder), "run", folder / "run")


def test_every_form_of_a_mixed_file_is_trained_and_the_rest_kept(model_folder, tmp_path, tokenizer):
    records = [record for record, _ in (*READ.values(), *UNUSABLE.values())]
    data = {
        "train": write(tmp_path / "pairs.jsonl", records),
        "eval": write(tmp_path / "eval.jsonl", records[::-1]),
        "max_rejected_share": 0.5,
    }
    trainer = made(model_folder, tmp_path, data, max_steps=1)
    expected = [tokenize_tree(tree_of(record), tokenizer).tokens for record, _ in READ.values()]
    assert [token_tree(example).tokens for example in trainer.train_dataset] == [list(map(list, tokens)) for tokens in expected]
    for name in ("unreadable.jsonl", "unreadable-eval.jsonl"):
        kept = [json.loads(line) for line in (tmp_path / "run" / name).read_text().splitlines()]
        assert len(kept) == len(UNUSABLE)
        assert all(item["reason"] for item in kept)
    trainer.train()
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_columns_are_mapped_in_train_and_eval(model_folder, tmp_path):
    records = [{"q": f"What of {n}?", "good": GOOD, "bad": BAD, "times": 1.0 + n} for n in range(4)]
    path = write(tmp_path / "pairs.jsonl", records)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad", "weight": "times"}
    trainer = made(model_folder, tmp_path, {"train": path, "eval": path, "columns": columns})
    assert [example["edge_weights"] for example in trainer.train_dataset] == [[1.0], [2.0], [3.0], [4.0]]
    assert len(trainer.eval_dataset) == 4


MISTAKES = {
    "no mapping": ({}, "there are bad, good, q"),
    "misspelt column": ({"prompt": "q", "chosen": "goood", "rejected": "bad"}, "did you mean 'good'"),
    "misspelt target": ({"promt": "q"}, "did you mean 'prompt'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence_before_the_model_is_loaded(name, model_folder, tmp_path):
    columns, said = MISTAKES[name]
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"}, "training": training(tmp_path),
        "data": {"train": write(tmp_path / "pairs.jsonl", [{"q": Q, "good": GOOD, "bad": BAD}]), "columns": columns},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    for command in (["run", tmp_path / "recipe.yaml", "--dry-run"], ["train", tmp_path / "recipe.yaml"]):
        done = align_here(*command)
        assert done.returncode == 2, command
        assert said in done.stderr.strip().splitlines()[-1]


def test_merging_prompts_leaves_deeper_and_sampled_trees_whole(model_folder, tmp_path, tokenizer):
    sampled = tree_of(
        {"prompt": Q, "nodes": [{"text": "a", "token_ids": [5]}, {"text": "b", "token_ids": [6]}], "edges": [{"chosen": 0, "rejected": 1}]}
    )
    edges = tree_of(
        {"prompt": ASKED, "nodes": [{"text": "a "}, {"text": "b "}, {"text": "c", "parent": 0}], "edges": [{"chosen": 0, "rejected": 1}]}
    )
    pairs = [tree_of({"prompt": Q, "chosen": "x", "rejected": text}) for text in ("y", "z")]
    write_trees([sampled, edges, *pairs], tmp_path / "trees.jsonl")
    trainer = made(model_folder, tmp_path, {"train": str(tmp_path / "trees.jsonl"), "merge_prompts": True})
    assert [len(example["node_ids"]) for example in trainer.train_dataset] == [3, 4, 4]
    assert trainer.train_dataset[0]["node_ids"][1:] == [[5, tokenizer.eos_token_id], [6, tokenizer.eos_token_id]]


# A round

SETTINGS = {
    "scorers": [{"name": "implicit", "weight": 1.0}], "quantile": 0.85, "length_unit": "characters", "length_alpha": 0.0, "pairing": "best_worst",
    "replay": 0.6, "offline_split": "train", "max_rejected_share": 0.5, "seed": 0, "round": 1, "offline_columns": {},
}  # fmt: skip
OFFLINE = [
    {"prompt": f"What of {n}?", "prompt_id": "x", "chosen": [*chat, {"role": "assistant", "content": GOOD}], "rejected": [*chat, {"role": "assistant", "content": BAD}],
     "messages": [*chat, {"role": "assistant", "content": GOOD}], "score_chosen": 8.0 - n, "score_rejected": 5}
    for n in range(4) for chat in [[{"role": "user", "content": f"What of {n}?"}]]
]  # fmt: skip
FURTHER = [
    {"question": "How many?", **PAIR},
    {"prompt": "A text?", **PAIR},
    {"prompt": [{"role": "user", "content": "Look"}], "chosen": [CALL, {"role": "tool", "content": "17"}, {"role": "assistant", "content": GOOD}], "rejected": BAD, "tools": [TOOL]},
    {"prompt": "Cut off", "chosen": None, "rejected": BAD},
]  # fmt: skip


def samples(folder, tokenizer, conversational):
    trees = []
    for n in range(6):
        prompt = [{"role": "user", "content": f"Sum {n}?"}] if conversational else f"Sum {n}?"
        nodes = tuple(
            Node(text, token_ids=tuple(tokenizer(text)["input_ids"]), metadata={"logps": [0.5], "finish_reason": "stop"})
            for text in ("five", "six of them")
        )
        trees.append(PreferenceTree(prompt, nodes, id=str(n), prompt_token_ids=(1, 30 + n)))
    write_trees(trees, folder / "in.jsonl")
    Journal(folder / "scores").append((tree.id, {"implicit": [{"reward": 1.0}, {"reward": -1.0}]}) for tree in trees)
    return {"trees": str(folder / "in.jsonl"), "scores": str(folder / "scores")}


@pytest.mark.slow
@pytest.mark.parametrize("conversational", [False, True], ids=["text prompts", "chat prompts"])
@pytest.mark.parametrize("source", ["JSONL", "Parquet"])
def test_a_round_that_replays_conversations_trains(conversational, source, model_folder, tmp_path, tokenizer):
    if source == "JSONL":
        offline = write(tmp_path / "offline.jsonl", [*OFFLINE, *FURTHER])
    else:
        offline = str(tmp_path / "offline.parquet")
        Dataset.from_list(OFFLINE).to_parquet(offline)
    inputs = {**samples(tmp_path, tokenizer, conversational), "offline": offline}
    (tmp_path / "pair").mkdir()
    pair(Task("pair", tmp_path / "pair", SETTINGS, inputs))
    trees, rejected = read_trees(tmp_path / "pair" / "pairs.jsonl")
    assert not rejected
    assert len({type(tree.prompt) for tree in trees}) == (1 if conversational else 2)  # beside chats, offline texts are asked as chats
    settings = {
        "model": {"dtype": "float32"},
        "data": {"max_rejected_share": 0.1},
        "training": training(tmp_path, monitor_3d=True, monitor_max_new_tokens=4, monitor_prompts=12),
    }
    (tmp_path / "train").mkdir()
    experiment.train_stage(
        Task(
            "train",
            tmp_path / "train",
            settings,
            {"model": str(model_folder), "data": str(tmp_path / "pair" / "pairs.jsonl")},
            {"training": {}},
        )
    )
    assert (tmp_path / "train" / "model" / "model.safetensors").exists()
    logged = [json.loads(line) for line in (tmp_path / "train" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(entry["loss"]) for entry in logged if "loss" in entry)


def test_replay_reads_mapped_columns_and_refuses_others(tmp_path, tokenizer):
    offline = write(tmp_path / "offline.jsonl", [{"q": f"What of {n}?", "good": GOOD, "bad": BAD} for n in range(9)])
    inputs = {**samples(tmp_path, tokenizer, False), "offline": offline}
    (tmp_path / "pair").mkdir()
    with pytest.raises(AlignError, match="there are bad, good, q"):
        pair(Task("pair", tmp_path / "pair", SETTINGS, inputs))
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    pair(Task("pair", tmp_path / "pair", {**SETTINGS, "offline_columns": columns}, inputs))
    trees, _ = read_trees(tmp_path / "pair" / "pairs.jsonl")
    assert {tree.nodes[0].text for tree in trees} == {"five", GOOD}
