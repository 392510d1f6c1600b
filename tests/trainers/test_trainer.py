"""The trainer's reference handling, data handling, monitors and settings."""

import json
import logging
import math
import random
import weakref
from dataclasses import replace

import pytest
import torch
from conftest import random_model
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from align.errors import AlignError
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.batches import BalancedBatches, TokenBudgetBatches
from align.trees import Edge, Node, PreferenceTree

TREES = [
    PreferenceTree(
        f"What is {a} plus {b}?\n",
        (Node(f"It is {a + b}."), Node(f"It is {a * b + 7}, of course."), Node("No idea.")),
        (Edge(0, 1), Edge(0, 2)),
    )
    for a in range(4)
    for b in range(2)
]
PAIRS = [{"prompt": t.prompt, "chosen": t.nodes[0].text, "rejected": t.nodes[1].text} for t in TREES]


def trainer(settings, tokenizer, model=None, data=None, **changes):
    extra = {k: changes.pop(k) for k in ("ref_model", "peft_config", "eval_dataset") if k in changes}
    args = PreferenceConfig(**{**settings, "learning_rate": 1e-3, "logging_steps": 1, **changes})
    return PreferenceTrainer(
        model or random_model(),
        extra.pop("ref_model", None) or (None if "peft_config" in extra else random_model()),
        args,
        train_dataset=TREES if data is None else data,
        processing_class=tokenizer,
        **extra,
    )


def logged(t, key):
    return [entry[key] for entry in t.state.log_history if key in entry]


# References


@pytest.mark.slow
def test_cached_reference_changes_nothing(settings, tokenizer):
    histories = []
    for cache in (True, False):
        t = trainer(settings, tokenizer, num_train_epochs=3, cache_reference=cache)
        t.train()
        assert len(t._reference_store) == (len(TREES) if cache else 0)
        histories.append(logged(t, "loss"))
    assert histories[0] == pytest.approx(histories[1], rel=1e-6)


@pytest.mark.slow
def test_precomputed_reference_is_kept_on_disk_and_read_back(settings, tokenizer, tmp_path, monkeypatch):
    results = []
    for _ in range(2):
        t = trainer(settings, tokenizer, precompute_ref_log_probs=True, reference_cache_dir=str(tmp_path / "ref"))
        t.train()
        results.append(logged(t, "loss"))
        monkeypatch.setattr(PreferenceTrainer, "_reference_model", lambda self: pytest.fail("the reference was run again"))
    assert results[0] == results[1]
    assert len(list((tmp_path / "ref").glob("*.npz"))) == 1


@pytest.mark.slow
def test_a_released_reference_costs_no_memory_and_changes_nothing(settings, tokenizer, tmp_path):
    losses = []
    for release in (False, True):
        t = trainer(settings, tokenizer, ref_model=random_model(seed=1), precompute_ref_log_probs=True, reference_cache_dir=str(tmp_path))
        weight = weakref.ref(t.ref_model.lm_head.weight)
        if release:
            t.release_reference()
            with pytest.raises(RuntimeError, match="the reference is gone"):
                t.evaluate([replace(tree, prompt="Something else?\n") for tree in TREES])
        assert (weight() is None) == release
        t.train()
        losses.append(logged(t, "loss"))
    assert losses[0] == losses[1]


def test_another_reference_is_not_mixed_up(settings, tokenizer, tmp_path):
    for seed in (0, 1):
        trainer(
            settings, tokenizer, ref_model=random_model(seed=seed), precompute_ref_log_probs=True, reference_cache_dir=str(tmp_path / "ref")
        )
    assert len(list((tmp_path / "ref").glob("*.npz"))) == 2


def test_adapter_off_is_the_reference_of_a_new_adapter(settings, tokenizer):
    t = trainer(settings, tokenizer, peft_config=LoraConfig(target_modules="all-linear"))
    t.train()
    assert logged(t, "loss")[0] == pytest.approx(math.log(2), rel=1e-5)
    assert logged(t, "rewards/margins")[-1] > 0


def test_adapter_copy_is_the_reference_of_a_tuned_adapter(settings, tokenizer):
    torch.manual_seed(0)
    tuned = get_peft_model(random_model(), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    args = PreferenceConfig(**{**settings, "learning_rate": 1e-3, "logging_steps": 1})
    t = PreferenceTrainer(tuned, None, args, train_dataset=TREES, processing_class=tokenizer)
    t.train()
    assert logged(t, "loss")[0] == pytest.approx(math.log(2), rel=1e-5)  # policy = reference at the start, not the bare model


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
@pytest.mark.slow
def test_prompt_learning_trains_its_prefix(config, settings, tokenizer):
    t = trainer(
        settings, tokenizer, peft_config=config(task_type="CAUSAL_LM", num_virtual_tokens=4), num_train_epochs=2, learning_rate=1e-1
    )
    before = {n: p.clone() for n, p in t.model.named_parameters() if p.requires_grad}
    t.train()
    assert all(not torch.equal(before[n], p) for n, p in t.model.named_parameters() if p.requires_grad)
    assert logged(t, "loss")[-1] < logged(t, "loss")[0]


def test_reference_free_loss_runs_no_reference(settings, tokenizer, monkeypatch):
    t = trainer(settings, tokenizer, loss_type=["simpo"], beta=2.0)
    monkeypatch.setattr(t, "_reference_logps", lambda batch: pytest.fail("SimPO has no reference"))
    t.train()


@pytest.mark.slow
def test_moe_router_loss_counts_a_token_once_a_sequence(settings, tokenizer):
    """The packed router loss is the one of the pair's padded rows."""
    t = trainer(
        settings, tokenizer, model=random_model("mixtral"), ref_model=random_model("mixtral"), data=PAIRS_DATA(), router_aux_loss_coef=0.5
    )
    t.train()
    packed = logged(t, "aux_loss")[0]
    rows = trainer(
        {**settings},
        tokenizer,
        model=random_model("mixtral"),
        ref_model=random_model("mixtral"),
        data=PAIRS_DATA(),
        router_aux_loss_coef=0.5,
        attention_backend="unshared",
    )
    rows.train()
    assert packed == pytest.approx(logged(rows, "aux_loss")[0], rel=1e-5)


def PAIRS_DATA():
    return Dataset.from_list(PAIRS)


# Losses and schedules


@pytest.mark.parametrize(
    "loss_type",
    [["flex"], ["selm"], ["kto"], ["orpo"], ["cal_dpo"], ["bdpo"], ["dpo_positive"], ["rpo"], ["length_margin"], ["sigmoid", "nll"]],
    ids=str,
)
@pytest.mark.slow
def test_every_further_loss_trains(loss_type, settings, tokenizer):
    with_free = [PreferenceTree(t.prompt, t.nodes, t.edges[:1]) for t in TREES]
    t = trainer(settings, tokenizer, data=with_free, loss_type=loss_type, num_train_epochs=4)
    t.train()
    assert logged(t, "rewards/margins")[-1] > logged(t, "rewards/margins")[0]


def test_beta_schedules():
    at = lambda kind, p: PreferenceConfig(
        "x", use_cpu=True, bf16=False, beta_rejected=0.1, beta_rejected_end=0.05, beta_rejected_schedule=kind
    ).beta_rejected_at(p)
    assert [at("constant", p) for p in (0, 1)] == [0.1, 0.1]
    assert [at("linear", p) for p in (0, 0.5, 1)] == pytest.approx([0.1, 0.075, 0.05])
    assert [at("cosine", p) for p in (0, 0.25, 0.5, 1)] == pytest.approx([0.1, 0.1 - 0.05 * (1 - math.cos(math.pi / 4)) / 2, 0.075, 0.05])


@pytest.mark.slow
def test_flex_works_with_any_pairwise_loss(settings, tokenizer):
    """β⁻ through the sigmoid loss is the flex loss."""
    losses = []
    for how in ({"loss_type": ["sigmoid"]}, {"loss_type": ["flex"]}):
        t = trainer(settings, tokenizer, ref_model=random_model(seed=5), beta_rejected=0.03, max_steps=1, **how)
        t.train()
        losses.append(logged(t, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"loss_type": ["sigmoit"]}, "did you mean 'sigmoid'"),
        ({"attention_backend": "cascad"}, "did you mean 'cascade'"),
        ({"beta_rejected": 0.1, "beta_rejected_schedule": "linear"}, "needs `beta_rejected_end`"),
        ({"loss_type": ["cdpo"]}, "needs `label_smoothing`"),
        ({"f_divergence_type": "reverse"}, "did you mean 'reverse_kl'"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message, settings):
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**settings, **setting)


def test_a_global_batch_is_shared_out_over_ranks_and_steps(settings, monkeypatch):
    assert PreferenceConfig(**settings, per_device_train_batch_size=4, global_batch_size=24).gradient_accumulation_steps == 6
    with pytest.raises(ValueError, match="leave one of them out"):
        PreferenceConfig(**settings, global_batch_size=24, gradient_accumulation_steps=2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"is 32, but 3 processes .* do 12 trees at a time: make it 24 or 36"):
        PreferenceConfig(**settings, per_device_train_batch_size=4, global_batch_size=32)


def test_ranks_are_dealt_about_as_many_tokens_and_each_tree_once():
    sizes = torch.randint(20, 2000, (101,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = list(BalancedBatches(range(101), sizes, 4, 4))
    assert sorted(i for batch in batches for i in batch) == list(range(101))
    assert len(batches) == 28
    rounds = [[sum(sizes[i] for i in batch) for batch in batches[at : at + 4]] for at in range(0, 24, 4)]
    in_order = [[sum(sizes[i : i + 4]) for i in range(at, at + 16, 4)] for at in range(0, 96, 16)]
    balance = lambda found: sum(map(sum, found)) / (4 * sum(map(max, found)))
    assert balance(rounds) > 0.95 > 0.85 > balance(in_order)
    few = list(BalancedBatches(range(5), sizes, 1, 4))
    assert [len(batch) for batch in few] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_margin_that_no_loss_reads_is_refused(settings, tokenizer):
    data = [PreferenceTree(t.prompt, t.nodes, (Edge(0, 1, margin=0.5),)) for t in TREES]
    trainer(settings, tokenizer, data=data, max_steps=1).train()
    with pytest.raises(AlignError, match="has a `margin`, which none of the losses"):
        trainer(settings, tokenizer, data=data, loss_type=["ipo"], max_steps=1).train()


def test_dropout_is_trained_row_by_row(settings, tokenizer):
    t = trainer(settings, tokenizer, model=random_model("gpt2"), ref_model=random_model("gpt2"), disable_dropout=False, max_steps=1)
    t.train()
    assert t._backend == "unshared"


# Data


@pytest.mark.slow
def test_all_formats_train(settings, tokenizer):
    user, answer = lambda t: [{"role": "user", "content": t}], lambda t: [{"role": "assistant", "content": t}]
    chat = [{"prompt": user(p["prompt"]), "chosen": answer(p["chosen"]), "rejected": answer(p["rejected"])} for p in PAIRS]
    implicit = [{"chosen": p["prompt"] + p["chosen"], "rejected": p["prompt"] + p["rejected"]} for p in PAIRS]
    chat_trees = [PreferenceTree(user(t.prompt), t.nodes, t.edges) for t in TREES]
    for data in (
        TREES,
        chat_trees,
        Dataset.from_list(PAIRS),
        Dataset.from_list(chat),
        Dataset.from_list(implicit),
        Dataset.from_list(PAIRS).to_iterable_dataset(),
    ):
        t = trainer(settings, tokenizer, data=data, max_steps=2, eval_dataset={"a": Dataset.from_list(PAIRS[:3]), "b": TREES[:2]})
        t.train()
        assert math.isfinite(t.evaluate()["eval_a_loss"])


def test_evaluation_loss_is_the_mean_over_edges(settings, tokenizer):
    data = [*TREES[:3], PreferenceTree(TREES[3].prompt, TREES[3].nodes, TREES[3].edges[:1])]
    losses = {}
    for size in (1, 4):
        t = trainer(settings, tokenizer, ref_model=random_model(seed=3), eval_dataset=data, per_device_eval_batch_size=size)
        losses[size] = t.evaluate()
    assert losses[1]["eval_loss"] == pytest.approx(losses[4]["eval_loss"], rel=1e-5)
    assert losses[1]["eval_rewards/margins"] == pytest.approx(losses[4]["eval_rewards/margins"], rel=1e-4)


def test_losses_of_a_users_own_are_logged_as_they_are(settings, tokenizer):
    t = trainer(settings, tokenizer, eval_dataset=TREES[:2])
    t.model.eval()
    t.evaluate()
    own = {"eval_loss": 99.0, "my_loss": 7.0}
    t.log(own)
    assert own["my_loss"] == 7.0


def test_missing_column_names_the_nearest(settings, tokenizer):
    with pytest.raises(AlignError, match="no column 'chosen': did you mean 'choosen'"):
        trainer(settings, tokenizer, data=Dataset.from_list([{"prompt": "p", "choosen": "a", "rejected": "b"}]))


def test_too_long_prompts_are_kept_aside(settings, tokenizer, tmp_path, caplog):
    rows = [*PAIRS, {"prompt": "why " * 100, "chosen": "a", "rejected": "b"}]
    with caplog.at_level(logging.WARNING):
        t = trainer(settings, tokenizer, data=Dataset.from_list(rows), max_length=60)
    assert len(t.train_dataset) == len(PAIRS)
    kept = [json.loads(line) for line in (tmp_path / "out" / "rejected-train.jsonl").read_text().splitlines()]
    assert "max_length" in kept[0]["reason"]
    assert kept[0]["record"]["prompt"] == rows[-1]["prompt"]
    assert "1 of 9 records cannot be used" in caplog.text


def test_too_many_unusable_records_stop_the_run(settings, tokenizer):
    rows = [*PAIRS[:2], {"prompt": "why " * 100, "chosen": "a", "rejected": "b"}]
    with pytest.raises(AlignError, match=r"record 2: `prompt` has .* \(1 of 3 records are unusable"):
        trainer(settings, tokenizer, data=Dataset.from_list(rows), max_length=60, max_rejected_share=0.1)


def test_rows_are_filled_to_the_token_budget():
    sizes = [17, 40, 3, 22, 90, 9, 31, 12] * 40
    sampler = TokenBudgetBatches(sizes, 100, step=6, ranks=3, seed=1)
    batches = list(sampler)
    assert sorted({i for batch in batches for i in batch}) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in batch) <= 100 for batch in batches)
    assert len(batches) % 3 == 0 == len(sampler) % 3
    assert sum(sizes) / (100 * len(batches)) > 0.9
    assert batches == list(TokenBudgetBatches(sizes, 100, 6, ranks=3, seed=1)) != list(TokenBudgetBatches(sizes, 100, 6, ranks=3, seed=2))
    sampler.set_epoch(1)
    assert list(sampler) != batches


@pytest.mark.parametrize("trees", [1, 7, 120, 333])
def test_a_step_filled_to_the_token_budget_holds_the_same_trees_whatever_the_ranks(trees):
    draw = random.Random(trees)
    sizes = [draw.randint(3, 90) for _ in range(trees)]
    found = []
    for ranks in (1, 2, 4, 8):
        rows = list(TokenBudgetBatches(sizes, 100, step=8, ranks=ranks, seed=1))
        assert len(rows) % ranks == 0
        found.append([sorted(i for row in rows[start : start + 8] for i in row) for start in range(0, len(rows), 8)])
    assert found[0] == found[1] == found[2] == found[3]
    assert sorted(i for step in found[0] for i in step) == list(range(trees))


# Monitors


@pytest.mark.slow
def test_monitor_logs_records_and_warns(settings, tokenizer, tmp_path, caplog):
    t = trainer({**settings, "monitor_3d": True}, tokenizer, num_train_epochs=6, learning_rate=2e-2, monitor_max_new_tokens=8)
    with caplog.at_level(logging.WARNING):
        t.train()
    records = [json.loads(line) for line in (tmp_path / "out" / "three_d.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(t.state.global_step + 1))
    assert records[0]["3d/chosen_drift"] == 0
    assert records[-1]["3d/rejected_drift"] < 0
    assert logged(t, "3d/unseen_drift")
    assert "drastic drop" in caplog.text


@pytest.mark.slow
def test_monitor_changes_nothing(settings, tokenizer):
    results = []
    for monitor in (True, False):
        t = trainer({**settings, "monitor_3d": monitor}, tokenizer, num_train_epochs=2)
        t.train()
        results.append(logged(t, "loss"))
    assert results[0] == results[1]


@pytest.mark.slow
def test_wandb_offline_gets_the_3d_metrics(settings, tokenizer, offline_wandb):
    t = trainer({**settings, "monitor_3d": True, "report_to": "wandb", "run_name": "test"}, tokenizer, max_steps=2)
    t.train()
    import wandb

    assert "train/3d/chosen_drift" in dict(wandb.run.summary)
    wandb.finish()
    assert len(list(offline_wandb.glob("offline-run-*"))) == 1
