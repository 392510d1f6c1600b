"""Defaults and factors as they stand in the authors' code, each against that rule written out again here."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from align.engine import TokenTree, pack
from align.losses import LOSSES, evaluate
from align.trainers import PreferenceConfig
from align.trainers.objective import edge_tensors, edge_wpo_weights, loss_sums
from align.trainers.trainer import _objective

AUTHORS_BETA = {"simpo": 2.0, "sppo_hard": 0.001, "cal_dpo": 0.001, "discopop": 0.05}
"""β of the SimPO config, SPPO's and Cal-DPO's scripts, DiscoPOP's experiments; DPO's 0.1 everywhere else."""


def config(tmp_path, **settings):
    return PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


def edges(seed=0, count=5):
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for side in ("chosen", "rejected"):
        tensors[f"{side}_lengths"] = torch.randint(1, 30, (count,), generator=draw)
        tensors[f"{side}_logps"] = -20 * torch.rand(count, generator=draw)
        tensors[f"ref_{side}_logps"] = -20 * torch.rand(count, generator=draw)
        tensors[f"{side}_logratios"] = tensors[f"{side}_scores"] = tensors[f"{side}_logps"] - tensors[f"ref_{side}_logps"]
    return {**tensors, "margins": torch.zeros(count), "free_logratios": tensors["chosen_logratios"]}


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if "beta" in loss.hyperparameters])
def test_who_names_only_the_loss_gets_its_authors_beta(name, tmp_path):
    wanted = AUTHORS_BETA.get(name, 0.1)
    smoothing = {"label_smoothing": 0.1} if "label_smoothing" in LOSSES[name].hyperparameters else {}
    by_name = config(tmp_path, loss_type=[name], **smoothing)
    assert by_name.betas() == {name: wanted}
    explicit = replace(by_name, beta=wanted)
    tensors = edges()
    plain, given = (evaluate(LOSSES[name], tensors, _objective(args).hyperparameters) for args in (by_name, explicit))
    torch.testing.assert_close(plain, given, rtol=0, atol=0)
    other = evaluate(LOSSES[name], tensors, _objective(replace(by_name, beta=0.7)).hyperparameters)
    assert not torch.allclose(plain, other)


def test_in_a_mixture_each_loss_has_its_own_beta_and_a_given_one_wins_over_all(tmp_path):
    mixture = config(tmp_path, loss_type=["sigmoid", "sppo_hard", "sft"], loss_weights=[1.0, 0.5, 0.1])
    assert mixture.betas() == {"sigmoid": 0.1, "sppo_hard": 0.001}
    assert mixture.described_losses() == "sigmoid (β = 0.1) + 0.5 · sppo_hard (β = 0.001) + 0.1 · sft"
    assert replace(mixture, beta=0.3).betas() == {"sigmoid": 0.3, "sppo_hard": 0.3}
    assert replace(mixture, learning_rate=1e-3).betas() == mixture.betas()
    assert _objective(mixture).reward_scale == 0.1
    assert _objective(config(tmp_path, loss_type=["sppo_hard"])).reward_scale == 0.001
    assert _objective(config(tmp_path, loss_type=["sft"])).reward_scale == 0.1


@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo"])
def test_a_rejected_beta_is_relative_to_the_losses_own(loss_type, tmp_path):
    """β⁻ scales the rejected rewards by β⁻/β⁺, β⁺ the loss's own where the user names none."""
    batch = pack([TokenTree([[1], [2] * 3, [3] * 4], [-1, 0, 0], [(1, 2)], [1.0], [0.0])])
    logps, ref = -torch.rand(7), -torch.rand(7)
    chosen, rejected = (logps - ref)[:3].sum(), (logps - ref)[3:].sum()
    objective = _objective(config(tmp_path, loss_type=[loss_type], beta_rejected=0.05))
    found = loss_sums(edge_tensors(logps, ref, batch, objective), batch, objective, 0.05).sum()
    wanted = -F.logsigmoid(0.1 * chosen - 0.05 * rejected)
    if loss_type == "simpo":
        wanted = -F.logsigmoid(2.0 * logps[:3].mean() - 0.05 * logps[3:].mean() - 0.5)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("beta", [0.001, 0.1, 1.0])
def test_cal_dpo_is_dpo_without_beta_and_half_the_squared_distances(beta):
    tensors = edges(1)
    plus, minus = tensors["chosen_logratios"], tensors["rejected_logratios"]
    target = torch.full_like(plus, 1 / (2 * beta))
    wanted = -F.logsigmoid(plus - minus).mean() + 0.5 * (F.mse_loss(plus, target) + F.mse_loss(minus, -target))
    torch.testing.assert_close(evaluate(LOSSES["cal_dpo"], tensors, {"beta": beta}).mean(), wanted)


@pytest.mark.parametrize("gamma_beta_ratio", [0.25, 0.5, 0.8])
def test_simpo_is_its_authors_with_gamma_over_beta(gamma_beta_ratio):
    tensors = edges(2)
    mean = {side: tensors[f"{side}_logps"] / tensors[f"{side}_lengths"] for side in ("chosen", "rejected")}
    wanted = -F.logsigmoid(2.0 * (mean["chosen"] - mean["rejected"] - gamma_beta_ratio))
    torch.testing.assert_close(evaluate(LOSSES["simpo"], tensors, {"simpo_gamma": gamma_beta_ratio * 2.0}), wanted)


def test_simpos_margin_is_that_of_its_authors_configuration(tmp_path):
    assert config(tmp_path, loss_type=["simpo"]).simpo_gamma / 2.0 == 0.25


def wpo_batch(confident):
    """Two pairs: one of likely tokens (weights above 1), one of unlikely ones; per-token log π and log Σ π²."""
    logps = torch.tensor([-0.1, -0.2, -0.1, -0.3, -2.0, -3.0, -2.5])
    log_sum_sq = torch.full_like(logps, -0.5 if confident else 0.0)
    trees = [TokenTree([[1], [2] * 2, [3] * 2], [-1, 0, 0], [(1, 2)], [1.0], [0.0]), TokenTree([[1], [2], [3] * 2], [-1, 0, 0], [(1, 2)], [1.0], [0.0])]  # fmt: skip
    return logps, log_sum_sq, pack(trees)


@pytest.mark.parametrize("confident", [True, False])
def test_wpo_clamps_the_weight_of_a_pair_at_1_and_trls_does_not(confident, tmp_path):
    logps, log_sum_sq, batch = wpo_batch(confident)
    ends = [logps[:2] - log_sum_sq[:2], logps[2:4] - log_sum_sq[2:4], logps[4:5] - log_sum_sq[4:5], logps[5:] - log_sum_sq[5:]]
    means = [end.mean().item() for end in ends]
    products = [math.exp(means[0] + means[1]), math.exp(means[2] + means[3])]
    assert (max(products) > 1) == confident
    clamped = _objective(config(tmp_path, use_weighting=True))
    assert clamped.wpo_max_weight == 1.0
    assert edge_wpo_weights(logps, log_sum_sq, batch, 1.0).tolist() == pytest.approx([min(1.0, p) for p in products])
    assert edge_wpo_weights(logps, log_sum_sq, batch, None).tolist() == pytest.approx(products)
    with pytest.raises(ValueError, match="`wpo_max_weight` is 0: expected a number above 0"):
        config(tmp_path, wpo_max_weight=0)
