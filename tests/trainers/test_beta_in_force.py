"""What a user who names only the loss trains with: its authors' β, said at the start, in the logged rewards and on the model card."""

import logging

import pytest
from conftest import random_model

from align.card import model_card
from align.recipes.schema import Model, Recipe
from align.trainers import CompactProgress, PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree

TREES = [PreferenceTree(f"What is {n}?\n", (Node(f"It is {n}."), Node("No idea.")), (Edge(0, 1),)) for n in range(4)]


def trained(settings, tokenizer, **changes):
    args = PreferenceConfig(**{**settings, "learning_rate": 1e-3, "logging_steps": 1, "max_steps": 2, **changes})
    trainer = PreferenceTrainer(random_model(), random_model(seed=3), args, train_dataset=TREES, processing_class=tokenizer)
    trainer.add_callback(CompactProgress("run"))
    trainer.train()
    return trainer


@pytest.mark.slow
def test_the_losses_own_beta_is_said_and_scales_the_logged_rewards(settings, tokenizer, caplog, capsys):
    with caplog.at_level(logging.WARNING, logger="align"):
        plain = trained(settings, tokenizer, loss_type=["sppo_hard"], disable_tqdm=False)
    assert "`beta` is not set, the losses take their authors' (trl: 0.1): sppo_hard (β = 0.001)." in caplog.text
    assert "run: loss sppo_hard (β = 0.001)" in capsys.readouterr().out
    given = trained(settings, tokenizer, loss_type=["sppo_hard"], beta=0.001)
    for key in ("loss", "rewards/chosen", "rewards/margins"):
        assert plain.state.log_history[0][key] == pytest.approx(given.state.log_history[0][key], rel=1e-6)
    card = model_card(Recipe(model=Model(name_or_path="m"), data={"train": "x"}), plain.args, plain.state.log_history, 4)
    assert "| beta | sppo_hard 0.001 |" in card


def test_where_the_loss_has_trls_beta_nothing_is_said(settings, tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="align"):
        assert trained(settings, tokenizer).beta == 0.1
    assert "`beta` is not set" not in caplog.text
