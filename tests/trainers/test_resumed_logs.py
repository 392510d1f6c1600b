"""A training that was interrupted logs what an undisturbed one logs: steps, tokens, losses, metrics, the 3D monitor's measurements."""

import pytest
from conftest import byte_level_tokenizer, exact_settings, random_model
from datasets import Dataset
from transformers import TrainerCallback

from align.trainers import PreferenceConfig, PreferenceTrainer

TIMES = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
PAIRS = [{"prompt": f"What is {n}?", "chosen": f" It is {n}." * (1 + n % 3), "rejected": " No idea, of course."} for n in range(11)]
STEPS = 10


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def trained(folder, stop_at=None, **settings):
    options = {
        **exact_settings(folder),
        "save_strategy": "steps",
        "save_steps": 3,
        "logging_steps": 4,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
    }
    options |= {"lr_scheduler_type": "constant", "monitor_3d": True, "monitor_prompts": 1, "monitor_max_new_tokens": 2, "seed": 5}
    args = PreferenceConfig(**options, per_device_train_batch_size=2, **settings)
    trainer = PreferenceTrainer(
        random_model(scale=0.1), args=args, train_dataset=Dataset.from_list(PAIRS), processing_class=byte_level_tokenizer()
    )
    if stop_at:
        trainer.add_callback(StopAt(stop_at))
    trainer.train(resume_from_checkpoint=True)
    return trainer


def logs(trainer):
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in trainer.state.log_history]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return logs(trained(folder)), (folder / "out" / "three_d.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop_at", [pytest.param(3, marks=pytest.mark.exhaustive), pytest.param(4, marks=pytest.mark.exhaustive), 8, STEPS]
)
def test_a_resumed_training_logs_what_an_undisturbed_one_logs(undisturbed, tmp_path, stop_at):
    """Stopped right at a checkpoint, behind one, at a log, and after the last step, where none is left to be done."""
    trained(tmp_path, stop_at)
    again = trained(tmp_path)
    assert again.state.global_step == STEPS
    assert logs(again) == undisturbed[0]
    assert (tmp_path / "out" / "three_d.jsonl").read_bytes() == undisturbed[1]


@pytest.mark.slow
def test_what_is_saved_with_a_model_holds_no_token(tmp_path):
    secret = "hf_" + "a1B2" * 9
    trainer = trained(tmp_path, hub_token=secret)
    trainer.save_model(str(tmp_path / "model"))
    assert trainer.args.hub_token == secret
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
