"""Every loss that trl has gives trl's number on the same tensors."""

import types
from collections import defaultdict

import pytest
import torch
from trl import DPOTrainer

from align.engine import TokenTree, pack
from align.losses import LOSSES, evaluate
from align.trainers import PreferenceConfig
from align.trainers.objective import edge_tensors, edge_wpo_weights, loss_sums, normalize
from align.trainers.trainer import _objective

TRL_LOSSES = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
LENGTHS = [(3, 5), (7, 2), (4, 4), (6, 9)]


class Case:
    """Random token log-probs of four pairs, as trl's padded batch and as our packed one."""

    def __init__(self, seed, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda n: -scale * torch.rand(n, generator=generator)
        self.chosen, self.rejected = [[draw(n) for n in side] for side in zip(*LENGTHS, strict=True)]
        self.ref_chosen, self.ref_rejected = [[draw(n) for n in side] for side in zip(*LENGTHS, strict=True)]
        self.sum_sq = [[draw(n) for n in side] for side in zip(*LENGTHS, strict=True)]

    def trl(self, **settings):
        longest = max(max(pair) for pair in LENGTHS)
        pad = lambda rows: torch.nn.utils.rnn.pad_sequence([torch.nn.functional.pad(r, (0, longest - len(r))) for r in rows], True)
        lengths = torch.tensor([c for c, _ in LENGTHS] + [r for _, r in LENGTHS])
        completion = torch.cat([torch.zeros(8, 1), (torch.arange(longest)[None] < lengths[:, None]).float()], 1)
        outputs = types.SimpleNamespace(
            log_probs=pad(self.chosen + self.rejected),
            log_sum_sq_probs=pad(self.sum_sq[0] + self.sum_sq[1]),
            entropy=torch.zeros(8, longest), mean_logits=torch.zeros(8, longest), is_top1=torch.zeros(8, longest, dtype=torch.bool),
        )  # fmt: skip
        same = lambda x: x
        fake = types.SimpleNamespace(
            model=types.SimpleNamespace(training=True), precompute_ref_logps=True, aux_loss_enabled=False, _total_train_tokens=0, _tp_size=1,
            accelerator=types.SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same),
            _metrics={"train": defaultdict(list)}, args=types.SimpleNamespace(discopop_tau=0.05),
            beta=settings.get("beta", 0.1), loss_types=settings["loss_type"], loss_weights=settings.get("loss_weights") or [1.0] * 9,
            ld_alpha=None, f_divergence_type=settings.get("f_divergence_type", "reverse_kl"),
            f_alpha_divergence_coef=settings.get("f_alpha_divergence_coef", 0.5),
            label_smoothing=settings.get("label_smoothing", 0.0), use_weighting=settings.get("use_weighting", False),
        )  # fmt: skip
        fake.loss_weights = fake.loss_weights[: len(fake.loss_types)]
        inputs = {
            "input_ids": torch.ones(8, longest + 1, dtype=torch.long), "attention_mask": torch.ones(8, longest + 1), "completion_mask": completion,
            "ref_chosen_logps": torch.stack([r.sum() for r in self.ref_chosen]), "ref_rejected_logps": torch.stack([r.sum() for r in self.ref_rejected]),
        }  # fmt: skip
        return DPOTrainer._compute_loss(fake, lambda **_: outputs, inputs, False)

    def ours(self, tmp_path, **settings):
        args = PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
        batch = pack([TokenTree([[1], [2] * c, [3] * r], [-1, 0, 0], [(1, 2)], [1.0], [0.0]) for c, r in LENGTHS])
        together = lambda one, other: torch.cat([t for pair in zip(one, other, strict=True) for t in pair])
        logps, ref = together(self.chosen, self.rejected), together(self.ref_chosen, self.ref_rejected)
        objective = _objective(args)
        edges = edge_tensors(logps, ref, batch, objective)
        if args.use_weighting:
            edges["wpo_weights"] = edge_wpo_weights(logps, together(*self.sum_sq), batch, args.wpo_max_weight)
        return normalize(loss_sums(edges, batch, objective, args.beta_rejected), batch.counts)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss_type", TRL_LOSSES)
def test_loss_is_trls_loss(loss_type, seed, tmp_path):
    settings = {"loss_type": [loss_type], "beta": 0.3, "label_smoothing": 0.1 if loss_type in ("exo_pair", "robust", "aot") else 0.0}
    case = Case(seed, scale=3.0)
    torch.testing.assert_close(case.ours(tmp_path, **settings), case.trl(**settings), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"])
def test_f_divergence_is_trls(loss_type, kind, tmp_path):
    settings = {
        "loss_type": [loss_type],
        "beta": 0.1,
        "f_divergence_type": kind,
        "label_smoothing": 0.1 if loss_type in ("exo_pair", "robust") else 0.0,
    }
    torch.testing.assert_close(Case(1).ours(tmp_path, **settings), Case(1).trl(**settings), rtol=1e-6, atol=1e-6)


def test_weighted_mixture_and_wpo_are_trls(tmp_path):
    settings = {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2], "use_weighting": True}
    ours = Case(2).ours(tmp_path, wpo_max_weight=None, **settings)
    torch.testing.assert_close(ours, Case(2).trl(**settings), rtol=1e-6, atol=1e-6)


def test_simpo_orpo_and_kto_are_trls():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = -torch.rand(5) * 2, -torch.rand(5) * 2
    ones = torch.ones(5)
    tensors = {"chosen_logps": chosen, "rejected_logps": rejected, "chosen_lengths": ones, "rejected_lengths": ones}
    cpu = types.SimpleNamespace(device=torch.device("cpu"))
    fake = types.SimpleNamespace(beta=2.0, simpo_gamma=0.5, loss_type="simpo", label_smoothing=0.0, accelerator=cpu, alpha=0.0)
    torch.testing.assert_close(
        evaluate(LOSSES["simpo"], tensors, {"beta": 2.0, "simpo_gamma": 0.5}), CPOTrainer.cpo_loss(fake, chosen, rejected)[0]
    )
    odds = ORPOTrainer.odds_ratio_loss(types.SimpleNamespace(beta=0.1, accelerator=cpu), chosen, rejected)[0]
    torch.testing.assert_close(evaluate(LOSSES["orpo"], tensors, {"orpo_lambda": 0.1}), -chosen - odds, rtol=1e-5, atol=1e-5)
    kl = torch.cat([chosen, rejected]).mean().clamp(min=0)  # trl's KTO: 1 − σ(β(r − z₀)) and 1 − σ(β(z₀ − r))
    expected = 1 - torch.sigmoid(0.1 * (chosen - kl)) + 1 - torch.sigmoid(0.1 * (kl - rejected))
    torch.testing.assert_close(
        evaluate(LOSSES["kto"], {"chosen_logratios": chosen, "rejected_logratios": rejected}, {"beta": 0.1}), expected
    )
