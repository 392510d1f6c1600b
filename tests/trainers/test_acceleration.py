"""`torch_compile`, `use_liger_kernel`, shared prefixes: what they change is the time."""

import copy
import random
from dataclasses import replace

import pytest
import torch
import torch._dynamo
from conftest import random_model
from datasets import Dataset

from align.engine import ProbeResult, TokenTree
from align.engine.attention import Use
from align.errors import AlignError
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.acceleration import CHOICE, keep_choice, kept_choice
from align.trainers.collator import record_of


@pytest.fixture
def settings(tmp_path):
    return {
        "output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False, "learning_rate": 1e-3, "max_length": None,
        "logging_steps": 1, "save_strategy": "no", "gradient_checkpointing": False, "monitor_prompts": 2, "monitor_max_new_tokens": 4,
        "num_train_epochs": 1,
    }  # fmt: skip


def trees(common=40):
    """Eight trees whose prompts begin alike, of unequal sizes."""
    rng = random.Random(0)

    def tokens(n):
        return [rng.randrange(3, 300) for _ in range(n)]

    few_shot = tokens(common)
    return [
        TokenTree([few_shot + tokens(rng.randint(1, 9)), *(tokens(rng.randint(2, 12)) for _ in range(4))], [-1, 0, 0, 0, 1],
                  [(1, 2), (1, 3)], [1.0] * 2, [0.0] * 2)
        for _ in range(8)
    ]  # fmt: skip


def logs(model, tokenizer, **settings):
    data = Dataset.from_list([record_of(tree) for tree in trees()])
    trainer = PreferenceTrainer(model, None, PreferenceConfig(**settings), train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return trainer, [entry for entry in trainer.state.log_history if "loss" in entry]


WATCHED = ("loss", "rewards/margins", "logps/chosen", "entropy", "mean_token_accuracy", "3d/chosen_drift", "num_tokens")


@pytest.mark.slow
def test_trees_that_share_their_prompts_beginning_train_as_each_by_itself(settings, tokenizer):
    """One row of four trees, or four rows of one: the same losses, metrics, monitor; fewer tokens."""
    alone = settings | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    (_, one_by_one), (_, together) = (
        logs(random_model(), tokenizer, **given) for given in (alone, settings | {"per_device_train_batch_size": 4})
    )
    for expected, got in zip(one_by_one, together, strict=True):
        assert set(WATCHED) <= set(expected)
        for name in set(WATCHED) - {"num_tokens"}:
            assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
        assert got["num_tokens"] < expected["num_tokens"] - 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_layers_train_alike_and_padding_counts_nowhere(settings, tokenizer):
    torch._dynamo.reset()
    given = settings | {"per_device_train_batch_size": 4}
    _, plain = logs(random_model(), tokenizer, **given)
    trainer, compiled = logs(random_model(), tokenizer, **given, torch_compile=True, torch_compile_backend="aot_eager")
    torch._dynamo.reset()
    for expected, got in zip(plain, compiled, strict=True):
        assert set(WATCHED) <= set(expected)
        for name in WATCHED:
            assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
    assert trainer._collator.pack(trees()[:4]).layout.length == 256


def test_a_copy_of_the_trained_model_runs_its_own_weights(settings, tokenizer):
    data = Dataset.from_list([record_of(tree) for tree in trees()])
    trainer = PreferenceTrainer(random_model(), None, PreferenceConfig(**settings), train_dataset=data, processing_class=tokenizer)
    twin, ids = copy.deepcopy(trainer.model), torch.arange(5, 17)[None]
    with torch.no_grad():
        before = trainer.model(input_ids=ids).logits
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(twin(input_ids=ids).logits, before, atol=1e-3)
        torch.testing.assert_close(trainer.model(input_ids=ids).logits, before, rtol=0, atol=0)


def test_ligers_kernels_need_a_gpu(settings, tokenizer):
    with pytest.raises(AlignError, match="use_liger_kernel=True needs a GPU"):
        logs(random_model(), tokenizer, **settings, use_liger_kernel=True)


def test_a_choice_holds_for_what_it_was_timed_for(tmp_path, monkeypatch, settings):
    args, model = PreferenceConfig(**settings), random_model()
    use = Use(torch.device("cuda", 0), torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    assert kept_choice(args, model, use) is None
    keep_choice(args, model, use, ProbeResult("gather", 0.0, {}, {"gather": 0.1, "cascade": 0.2}))
    assert kept_choice(args, model, use) == "gather"
    for other in (replace(use, compiled=True), replace(use, dtype=torch.float16), replace(use, device=torch.device("cpu"))):
        assert kept_choice(args, model, other) is None
    assert kept_choice(args, random_model("mistral-window"), use) is None
    assert kept_choice(PreferenceConfig(**settings, max_tokens_per_batch=4096), model, use) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    assert kept_choice(args, model, use) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    (tmp_path / CHOICE).write_text('{"backend": "gath')
    assert kept_choice(args, model, use) is None
