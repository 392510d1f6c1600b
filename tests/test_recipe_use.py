"""What a recipe says is what is done: keys that another makes useless are refused, and what YAML or a default hides is put right."""

import json

import pytest
import torch
from conftest import align_here, byte_level_tokenizer, random_model

from align import recipes
from align.errors import AlignError
from align.experiment import train_stage
from align.plans import stages_of
from align.runs import Journal, Task
from align.trees import Node, PreferenceTree, to_record

PAIRS = [{"prompt": f"What is {n}?", "chosen": f" It is {n}.", "rejected": " No idea."} for n in range(6)]
METHODS = {
    "thoughts": {"rollouts": {"prompts": "q.jsonl"}, "thoughts": {"task": "gsm8k"}},
    "code": {"rollouts": {"prompts": "p.jsonl"}, "code": {}},
    "rounds": {"rollouts": {"prompts": "p.jsonl"}, "rounds": {}, "data": {"train": "d.jsonl"}},
    "data": {"data": {"train": "d.jsonl"}},
}


def parse(method, **sections):
    raw = {"model": {"name_or_path": "m"}, **METHODS[method]}
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values}
    return recipes.parse(raw, "recipe")


@pytest.mark.parametrize(
    ("method", "sections", "message"),
    [
        ("thoughts", {"data": {"train": "d.jsonl"}}, "data.train is of no use with `thoughts`"),
        ("code", {"data": {"limit": 5}}, "data.limit is of no use with `code`"),
        ("code", {"model": {"name_or_path": "m", "reference": "r"}}, "model.reference is of no use with `code`"),
        ("data", {"training": {"eval_strategy": "steps"}}, "training.eval_strategy is 'steps', but there is no data.eval"),
        ("thoughts", {"training": {"eval_strategy": "epoch"}}, "there is no data.eval"),
        ("thoughts", {"rounds": {"replay": 0.1}}, "rounds.replay is of no use with `thoughts`"),
        ("code", {"rounds": {"scorers": [{"name": "length"}]}}, "rounds.scorers is of no use with `code`"),
        (
            "code",
            {"rounds": {"overrides": [{"rollouts.chat": True}]}},
            "'rollouts.chat' cannot differ by round: what is asked is chosen once",
        ),
        ("code", {"rounds": {"overrides": [{"code.format": "mbpp"}]}}, "'code.format' cannot differ by round"),
        ("thoughts", {"rounds": {"overrides": [{"rollouts.prompts": "r.jsonl"}]}}, "'rollouts.prompts' cannot differ by round"),
    ],
)
def test_a_key_of_no_use_is_refused(method, sections, message):
    with pytest.raises(AlignError, match=message):
        stages_of(parse(method, **sections))


def test_a_round_may_log_and_save_otherwise_and_is_not_done_again_for_it():
    """What changes nothing of the model is no part of the settings that a stage is known by."""
    recipe = parse("thoughts", rounds={"count": 2, "overrides": [{}, {"training.logging_steps": 3, "training.beta": 0.3}]})
    first, second = (stage for stage in stages_of(recipe) if stage.name.endswith("train"))
    assert second.resources["training"] == {"logging_steps": 3}
    assert second.settings["training"] == {**first.settings["training"], "beta": 0.3}
    with pytest.raises(AlignError, match=r"'training\.output_dir' cannot differ by round"):
        stages_of(parse("thoughts", rounds={"count": 2, "overrides": [{}, {"training.output_dir": "x"}]}))


@pytest.mark.parametrize("key", ["revision", "trust_remote_code"])
def test_what_only_the_training_reads_of_a_model_is_refused_where_others_read_it(key):
    parse("data", model={"name_or_path": "m", key: True if key == "trust_remote_code" else "v1"})
    for method in ("thoughts", "code", "rounds"):
        with pytest.raises(AlignError, match=rf"model\.{key} is read by the training alone"):
            parse(method, model={"name_or_path": "m", key: True if key == "trust_remote_code" else "v1"})
    with pytest.raises(AlignError, match=rf"model\.{key} is read by the training alone"):
        recipes.load("dpo/zephyr-7b", [f"model.{key}={'true' if key == 'trust_remote_code' else 'v1'}", "measure=[gsm8k]"])


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_data_reach_every_training(method):
    sections = {"data": {"eval": "held-out.jsonl"}}
    if method == "rounds":
        sections["model"] = {"reference": "r"}
    for stage in stages_of(parse(method, **sections)):
        if stage.name.endswith("train"):
            assert stage.inputs["eval"].source == "held-out.jsonl"


def test_a_section_in_a_variant_or_a_round_changes_its_keys_and_leaves_the_others():
    base = recipes.load("micro/dpo-3d")
    for override in ("variants={low: {training: {beta: 0.3}}}", "variants.low.training.beta=0.3", "variants={low: {training.beta: 0.3}}"):
        low = recipes.variant(recipes.load("micro/dpo-3d", [override]), "low", 0)
        kept = {key: value for key, value in base.training.items() if key not in ("output_dir", "seed")}
        assert low.training == {**kept, "beta": 0.3, "seed": 0, "output_dir": f"{base.training['output_dir']}/low"}
    recipe = parse("thoughts", rounds={"count": 2, "overrides": [{}, {"training": {"beta": 0.3}}]}, training={"learning_rate": 1e-3})
    assert [stage.settings["training"] for stage in stages_of(recipe) if stage.name.endswith("train")] == [
        {"learning_rate": 1e-3}, {"learning_rate": 1e-3, "beta": 0.3},
    ]  # fmt: skip
    with pytest.raises(AlignError, match=r"'rollouts\.prompts' cannot differ by round"):
        stages_of(parse("thoughts", rounds={"count": 2, "overrides": [{}, {"rollouts": {"prompts": "x"}}]}))
    with pytest.raises(AlignError, match="a variant cannot have variants or seeds"):
        recipes.load("micro/dpo-3d", ["variants={low: {training: {seed: 3}}}"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("variants={'..': {}}", "it names a folder"), ("variants={a/seed-1: {}}", "it names a folder"),
        ("seeds=0", r"seeds is 0: expected a list of whole numbers, such as \[0, 1, 2\]"), ("seeds=[true]", "expected a list of whole numbers"),
    ],
)  # fmt: skip
def test_names_of_variants_and_seeds_are_checked(override, said):
    with pytest.raises(AlignError, match=said):
        recipes.load("micro/dpo-3d", [override])


def test_no_is_read_as_it_is_meant(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model: {name_or_path: m}\ndata: {train: d.jsonl}\ntraining: {save_strategy: no, eval_strategy: no}\n"
    )
    recipe = recipes.load(tmp_path / "recipe.yaml")
    assert recipe.training["save_strategy"] == recipe.training["eval_strategy"] == "no"


def test_evaluation_data_alone_are_evaluated_on_once_per_epoch(tmp_path):
    random_model().save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    for name, rows in (("train", PAIRS), ("eval", PAIRS[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {
        "num_train_epochs": 2, "per_device_train_batch_size": 2, "bf16": False, "report_to": "none", "monitor_3d": False, "use_cpu": True,
        "gradient_checkpointing": False, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    settings = {"model": {"dtype": "float32"}, "data": {}, "training": training}
    inputs = {"model": str(tmp_path / "model"), "data": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "eval.jsonl")}
    (tmp_path / "stage").mkdir()
    threads = torch.get_num_threads()
    train_stage(Task("train", tmp_path / "stage", settings, inputs, {"training": {}}))
    torch.set_num_threads(threads)
    log = [json.loads(line) for line in (tmp_path / "stage/log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if "eval_loss" in entry] == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["samples", "searches"])
def test_journals_of_a_run_can_be_shown(tmp_path, kind):
    tree = to_record(PreferenceTree("What is it?", (Node(" It is five.", score=1.0), Node(" It is six.", score=0.0)), id="a"))
    journal = Journal(tmp_path / kind)
    journal.append([("a", {"tree": tree} if kind == "searches" else tree)])
    if kind == "searches":
        journal.append([("b", {"question": {"q": "x"}, "reason": "no answer"})])
    done = align_here("show", tmp_path / kind)
    assert done.returncode == 0, done.stderr
    assert "It is five." in done.stdout
    assert "1 tree, 2 nodes, 0 edges" in done.stdout


@pytest.mark.parametrize("method", ["thoughts", "code", "rounds"])
def test_the_reference_of_all_rounds_may_stay_the_model_that_the_run_begins_with(method):
    """Of the first round it is the model itself, of the others that model or the round's own."""
    sections = {"rounds": {"count": 3, "reference": "start"}}
    if method == "rounds":
        sections["model"] = {"reference": "r"}
    for reference, expected in (("start", [None, "m", "m"]), ("round", [None, None, None])):
        sections["rounds"]["reference"] = reference
        trainings = [stage for stage in stages_of(parse(method, **sections)) if stage.name.endswith("train")]
        assert [getattr(stage.inputs.get("reference"), "source", None) for stage in trainings] == expected
