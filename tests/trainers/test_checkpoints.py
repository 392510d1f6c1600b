"""Which checkpoints a training goes on from, and what it says of the others."""

import functools
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import exact_settings, random_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from align.errors import AlignError, InterruptedRunError
from align.runs.stop_file import STOP_FILE
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.checkpoints import Distribution, begin, check_resume, fault, last_whole, read_record
from align.trees import Edge, Node, PreferenceTree

TREES = [PreferenceTree(f"What is {a}?\n", (Node(f"It is {a}."), Node("No idea.")), (Edge(0, 1),)) for a in range(8)]


def train(folder, tokenizer, resume=None, callbacks=None, **changes):
    """A training of 8 steps with a checkpoint every two; returns the trainer."""
    changes = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2, "num_train_epochs": 2, **changes}
    args = PreferenceConfig(**{**exact_settings(folder), "learning_rate": 1e-3, **changes})
    trainer = PreferenceTrainer(random_model(), random_model(), args, train_dataset=TREES, processing_class=tokenizer, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def undisturbed(tokenizer, tmp_path_factory):
    """The folder of a training that has ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, tokenizer)
    return folder / "out"


@pytest.fixture
def training(undisturbed, tokenizer, tmp_path):
    """Trains in a folder that holds the undisturbed training already."""
    shutil.copytree(undisturbed, tmp_path / "out")
    return functools.partial(train, tmp_path, tokenizer)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_state(checkpoint):
    (checkpoint / "trainer_state.json").unlink()


DAMAGES = {
    "model.safetensors is cut off": lambda checkpoint: cut(checkpoint / "model.safetensors"),
    "optimizer.pt is cut off": lambda checkpoint: cut(checkpoint / "optimizer.pt"),
    "trainer_state.json is cut off": lambda checkpoint: cut(checkpoint / "trainer_state.json"),
    "it was not written to its end (trainer_state.json, the last file, is missing)": remove_state,
    "only 0 of its 1 processes have written their part": lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
    "there is no such folder": shutil.rmtree,
}


@pytest.mark.parametrize("why", DAMAGES)
@pytest.mark.slow
def test_a_half_written_checkpoint_is_passed_over_and_named(why, training, tmp_path, caplog):
    newest = tmp_path / "out/checkpoint-8"
    assert last_whole(tmp_path / "out") == newest
    DAMAGES[why](newest)
    assert fault(newest) == why
    assert last_whole(tmp_path / "out").name == "checkpoint-6"
    with pytest.raises(AlignError, match=r"checkpoint-8': .*; the last whole one is .*checkpoint-6"):
        training(str(newest))
    resumed = training(True)
    assert resumed.state.global_step == 8
    if why != "there is no such folder":
        assert "checkpoint-8 is passed over" in caplog.text


@pytest.mark.slow
def test_a_training_resumed_in_an_epoch_ends_with_the_same_weights(training, tmp_path):
    whole = load_file(tmp_path / "out/checkpoint-8/model.safetensors")
    for step in (4, 6, 8):
        shutil.rmtree(tmp_path / f"out/checkpoint-{step}")
    training(True)
    again = load_file(tmp_path / "out/checkpoint-8/model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())


MODEL_ALONE = "it holds the model alone (training.save_only_model): the states of optimizer, schedule and random numbers are not there"
INCOMPLETE = {
    ("optimizer.pt",): "optimizer.pt is missing, so its optimizer would begin anew",
    ("scheduler.pt",): "scheduler.pt is missing, so its optimizer would begin anew",
    ("optimizer.pt", "scheduler.pt"): "optimizer.pt and scheduler.pt are missing, so its optimizer would begin anew",
    ("optimizer.pt", "scheduler.pt", "rng_state.pth"): MODEL_ALONE,
}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("files", INCOMPLETE, ids=" ".join)
@pytest.mark.slow
def test_a_checkpoint_without_its_optimizer_is_named_and_nothing_is_lost(files, training, tmp_path):
    checkpoints = sorted((tmp_path / "out").glob("checkpoint-*"))
    for checkpoint in checkpoints:
        for name in files:
            (checkpoint / name).unlink()
    before = contents(tmp_path / "out")
    assert fault(checkpoints[-1]) == INCOMPLETE[files]
    begin_with = rf"model.name_or_path={tmp_path}/out/checkpoint-8, with model.reference set to the model that the training began with"
    with pytest.raises(AlignError, match=rf"checkpoint-8': .*there is no whole one beside it. .*{begin_with}"):
        training(str(tmp_path / "out/checkpoint-8"))
    with pytest.raises(AlignError, match=rf"checkpoint-8': .*{begin_with}.*; or move the checkpoints away to begin anew"):
        training(True)
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
def test_a_training_that_saves_its_model_alone_is_not_begun_anew_by_resuming(training, tmp_path):
    shutil.rmtree(tmp_path / "out")
    training(save_only_model=True)
    before = contents(tmp_path / "out")
    with pytest.raises(AlignError, match=r"holds the model alone \(training.save_only_model\)"):
        training(True)
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
def test_an_older_checkpoint_with_its_optimizer_is_gone_on_from(training, tmp_path, caplog):
    whole = load_file(tmp_path / "out/checkpoint-8/model.safetensors")
    (tmp_path / "out/checkpoint-8/optimizer.pt").unlink()
    training(True)
    assert "checkpoint-8 is passed over: optimizer.pt is missing" in caplog.text
    again = load_file(tmp_path / "out/checkpoint-8/model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())


class Ask(TrainerCallback):
    """Makes the stop file in the middle of a step."""

    def __init__(self, file, step):
        self.file, self.step = file, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            self.file.touch()


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_saves_first_and_goes_on_with_the_same_weights(training, tmp_path, monkeypatch):
    whole = load_file(tmp_path / "out/checkpoint-8/model.safetensors")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    with pytest.raises(InterruptedRunError, match="asked to stop at step 5 of 8: a checkpoint is saved"):
        training(callbacks=[Ask(tmp_path / "stop", 5)], save_strategy="no")
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-5"]
    (tmp_path / "stop").unlink()
    training(True)
    again = load_file(tmp_path / "out/checkpoint-8/model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_at_its_last_step_is_done(training, tmp_path, monkeypatch):
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    assert training(callbacks=[Ask(tmp_path / "stop", 8)]).state.global_step == 8


@pytest.mark.slow
def test_without_a_whole_checkpoint_the_training_begins_anew(training, tmp_path):
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        remove_state(checkpoint)
    assert training(True).state.global_step == 8


@pytest.mark.slow
def test_as_many_checkpoints_are_kept_as_asked_for(training, tmp_path):
    shutil.rmtree(tmp_path / "out")
    training(save_total_limit=1)
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-8"]
    assert read_record(tmp_path / "out/checkpoint-8") == Distribution(1, "none", 2)


@pytest.mark.slow
def test_another_step_size_is_refused(training, tmp_path):
    with pytest.raises(AlignError, match=r"training of 2 trees a step, this one does 4 trees a step.*global_batch_size"):
        training(True, gradient_accumulation_steps=2)
    training(True, per_device_train_batch_size=1, global_batch_size=2)


ZERO = Distribution(4, "zero3", 64)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (replace(ZERO, processes=2), "by 4 processes, this training has 2: DeepSpeed's optimizer states.*Start 4"),
        (replace(ZERO, sharding="zero2"), "under ZeRO-3, this training is under ZeRO-2"),
        (replace(ZERO, sharding="none"), "under ZeRO-3, this training is under plain data parallelism"),
        (replace(ZERO, step_trees=32), "64 trees a step, this one does 32 trees a step"),
        (Distribution(4, "zero3", step_rows=64), "64 trees a step, this one does 64 rows a step, filled to a token budget"),
        (ZERO, None),
    ],
)
def test_a_checkpoint_of_a_training_spread_out_otherwise(now, message, tmp_path):
    begin(tmp_path, ZERO)
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "latest").write_text("global_step3")
    (tmp_path / "global_step3").mkdir()
    assert fault(tmp_path) == "only 0 of its 4 processes have written their part"
    for rank in range(4):
        torch.save({}, tmp_path / f"rng_state_{rank}.pth")
    assert fault(tmp_path) == "only 0 of its 4 processes have written their optimizer states"
    for rank in range(4):
        torch.save({}, tmp_path / f"global_step3/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    assert fault(tmp_path) is None
    if message is None:
        check_resume(tmp_path, now)
    else:
        with pytest.raises(AlignError, match=message):
            check_resume(tmp_path, now)


def test_plain_copies_may_change_their_number(tmp_path):
    then = Distribution(4, "none", 64)
    begin(tmp_path, then)
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, tmp_path / name)
    for rank in range(4):
        torch.save({}, tmp_path / f"rng_state_{rank}.pth")
    (tmp_path / "trainer_state.json").write_text("{}")
    check_resume(tmp_path, replace(then, processes=2))
    begin(tmp_path, Distribution(4, "none", step_rows=8))
    check_resume(tmp_path, Distribution(2, "none", step_rows=8))
