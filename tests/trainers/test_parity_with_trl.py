"""A packed tree gives the loss and the gradients of its pairs run one by one through trl.DPOTrainer."""

import copy

import pytest
import torch
from conftest import random_model
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer

from align.engine import TokenTree
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.collator import record_of, token_tree


def draw(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 400, (n,), generator=generator).tolist() for n in sizes]


def pairs(seed):
    return [TokenTree(draw(s, 10 * seed + i), [-1, 0, 0], [(1, 2)], [1.0], [0.0]) for i, s in enumerate([(9, 5, 7), (4, 8, 3), (12, 2, 6)])]


def group(seed):
    return [TokenTree(draw([15, *range(3, 11)], seed), [-1] + [0] * 8, [(1, i) for i in range(2, 9)], [1.0] * 7, [0.0] * 7)]


def steps(seed):
    parents = [-1, 0, 0, 0, 1, 1, 1, 4, 4, 4]
    edges = [(1, 2), (1, 3), (4, 5), (4, 6), (7, 8), (7, 9)]
    return [TokenTree(draw([20, 4, 5, 3, 6, 2, 4, 5, 3, 7], seed), parents, edges, [1.0] * 6, [0.0] * 6)]


SHAPES = {"pairs": pairs, "group of 8": group, "three steps": steps}


def path(tree, node):
    return (path(tree, tree.parents[node]) if tree.parents[node] >= 0 else []) + list(tree.tokens[node])


class RawDPOTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *args):
        return dataset


def gradients(trainer, batches=None):
    trainer.model.train()
    trainer.model.zero_grad()
    batches = [trainer._prepare_inputs(b) for b in trainer.get_train_dataloader()] if batches is None else batches
    counts = trainer._get_num_items_in_batch(batches, torch.device("cpu")) if isinstance(trainer, PreferenceTrainer) else None
    losses = []
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
        loss.backward()
        losses.append(loss.item())
    return sum(losses), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def relative_difference(one, other):
    assert one.keys() == other.keys()
    assert one, "no gradients to compare"
    difference = sum(((one[n] - other[n]) ** 2).sum() for n in one) ** 0.5
    return (difference / sum((g**2).sum() for g in other.values()) ** 0.5).item()


def policy(seed, lora):
    model = random_model("llama", seed, scale=0.1)
    if lora:
        torch.manual_seed(seed)
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    return model


def trl_one_by_one(trees, seed, lora, settings, **extra):
    """Sum over pairs of loss and gradients, divided by their number."""
    total, summed, count = 0.0, None, 0
    for tree in trees:
        for chosen, rejected in tree.edges:
            row = {
                "prompt_ids": path(tree, tree.parents[chosen]),
                "chosen_ids": list(tree.tokens[chosen]),
                "rejected_ids": list(tree.tokens[rejected]),
            }
            args = DPOConfig(**{k: v for k, v in settings.items() if k != "monitor_3d"}, **extra)
            trainer = RawDPOTrainer(
                policy(seed, lora),
                random_model("llama", seed + 100, 0.1),
                args,
                train_dataset=Dataset.from_list([row]),
                processing_class=TOK,
            )
            loss, grads = gradients(trainer)
            total, count = total + loss, count + 1
            summed = grads if summed is None else {n: summed[n] + grads[n] for n in grads}
    return total / count, {n: g / count for n, g in summed.items()}


def packed(trees, seed, lora, settings, **extra):
    args = PreferenceConfig(**settings, per_device_train_batch_size=len(trees), **extra)
    data = Dataset.from_list([record_of(tree) for tree in trees])
    return PreferenceTrainer(policy(seed, lora), random_model("llama", seed + 100, 0.1), args, train_dataset=data, processing_class=TOK)


@pytest.fixture(autouse=True)
def _tokenizer(tokenizer):
    global TOK
    TOK = tokenizer


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
def test_packed_tree_gives_loss_and_gradients_of_its_pairs(shape, lora, seed, settings):
    trees = SHAPES[shape](seed)
    loss, grads = gradients(packed(trees, seed, lora, settings))
    expected, expected_grads = trl_one_by_one(trees, seed, lora, settings)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert relative_difference(grads, expected_grads) <= 1e-5


@pytest.mark.parametrize(
    "extra",
    [
        {"loss_type": ["ipo"]},
        {"loss_type": ["apo_zero"]},
        {"ld_alpha": 0.5},
        {"use_weighting": True},
        {"loss_type": ["sigmoid_norm"], "f_divergence_type": "js_divergence"},
    ],
    ids=str,
)
@pytest.mark.slow
def test_other_losses_too(extra, settings):
    trees = steps(0)
    loss, grads = gradients(packed(trees, 0, False, settings, **copy.deepcopy(extra)))
    expected, expected_grads = trl_one_by_one(trees, 0, False, settings, **extra)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert relative_difference(grads, expected_grads) <= 2e-5


LAYOUTS = {
    "8 at once": {"per_device_train_batch_size": 8},
    "2 × 4": {"per_device_train_batch_size": 4},
    "4 × 2": {"per_device_train_batch_size": 2},
    "8 × 1": {"per_device_train_batch_size": 1},
    "by tokens": {"max_tokens_per_batch": 90},
    "unshared": {"per_device_train_batch_size": 8, "attention_backend": "unshared"},
    "checkpointed": {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", [{}, {"sft_weight": 0.5, "beta_rejected": 0.05}, {"loss_type": ["sigmoid", "sft"]}], ids=str)
def test_any_layout_gives_the_same_step(loss, settings):
    """One optimizer step of 8 trees with unequal edge counts, however they are cut into batches."""
    trees = [*pairs(0), *group(1), *pairs(2), *steps(3)]
    results = {}
    for name, layout in LAYOUTS.items():
        args = PreferenceConfig(**{**settings, **layout}, **copy.deepcopy(loss))
        data = Dataset.from_list([record_of(tree) for tree in trees])
        trainer = PreferenceTrainer(policy(0, False), random_model("llama", 100, 0.1), args, train_dataset=data, processing_class=TOK)
        results[name] = gradients(trainer)
    expected_loss, expected = results["8 at once"]
    for name, (got_loss, grads) in results.items():
        assert got_loss == pytest.approx(expected_loss, rel=1e-5), name
        assert relative_difference(grads, expected) <= 1e-5, name


@pytest.mark.slow
def test_real_training_with_accumulation_equals_one_large_batch(settings):
    """Through Trainer itself: parameters after two optimizer steps."""
    trees = [*pairs(0), *group(1), *pairs(2), *steps(3)]
    finals = []
    for layout in ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}):
        args = PreferenceConfig(
            **{**settings, **layout, "learning_rate": 1e-2, "num_train_epochs": 1, "optim": "sgd", "max_grad_norm": 0.0}
        )
        data = Dataset.from_list([record_of(tree) for tree in trees])
        trainer = PreferenceTrainer(policy(0, False), random_model("llama", 100, 0.1), args, train_dataset=data, processing_class=TOK)
        trainer.train()
        finals.append(({n: p.detach() for n, p in trainer.model.named_parameters()}, trainer.state.log_history[-1]["train_loss"]))
    start = {n: p.detach() for n, p in policy(0, False).named_parameters()}
    moved = [{n: final[n] - start[n] for n in start} for final, _ in finals]
    assert relative_difference(*moved) <= 1e-4
    assert finals[0][1] == pytest.approx(finals[1][1], rel=1e-5)


def test_weights_count_an_edge_several_times(settings):
    once = TokenTree(draw([9, 5, 7, 4], 0), [-1, 0, 0, 0], [(1, 2), (1, 2), (1, 3)], [1.0] * 3, [0.0] * 3)
    weighted = TokenTree(once.tokens, once.parents, [(1, 2), (1, 3)], [2.0, 1.0], [0.0] * 2)
    one, other = (gradients(packed([tree], 0, False, settings)) for tree in (once, weighted))
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert relative_difference(one[1], other[1]) <= 1e-5


def test_tokenized_trees_survive_their_record():
    tree = steps(0)[0]
    assert token_tree(record_of(tree)).content_key() == tree.content_key()


def test_a_collator_written_for_trl_works(settings):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    trees = pairs(0)
    rows = [{"prompt_ids": t.tokens[0], "chosen_ids": t.tokens[1], "rejected_ids": t.tokens[2]} for t in trees]
    args = PreferenceConfig(**settings, per_device_train_batch_size=3)
    trainer = PreferenceTrainer(
        policy(0, False),
        random_model("llama", 100, 0.1),
        args,
        DataCollatorForPreference(pad_token_id=0),
        Dataset.from_list(rows),
        processing_class=TOK,
    )
    loss, grads = gradients(trainer)
    expected, expected_grads = gradients(packed(trees, 0, False, settings))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert relative_difference(grads, expected_grads) <= 1e-6
