"""What every loss promises: finite at extremes, a quick import, and the gradients that the papers derive."""

import math
import subprocess
import sys

import pytest
import torch

from align.losses import F_DIVERGENCES, LOSSES, evaluate, expand, f_divergence_score, get_loss


def tensors_at(chosen, rejected, ref=-10.0, dtype=torch.float32):
    make = lambda value: torch.tensor([value, value], dtype=dtype, requires_grad=True)
    t = {"chosen_logps": make(chosen), "rejected_logps": make(rejected)}
    t |= {"ref_chosen_logps": torch.full((2,), ref, dtype=dtype), "ref_rejected_logps": torch.full((2,), ref, dtype=dtype)}
    for side in ("chosen", "rejected"):
        t[f"{side}_logratios"] = t[f"{side}_logps"] - t[f"ref_{side}_logps"]
        t[f"{side}_scores"] = t[f"{side}_logratios"]
        t[f"{side}_lengths"] = torch.tensor([4, 4])
    return {**t, "margins": torch.zeros(2), "free_logratios": t["chosen_logratios"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ends", [(0.0, -1e4), (-1e4, 0.0), (-1e4, -1e4), (0.0, 0.0), (-1e-7, -1e4), (-700.0, -1e-7)])
def test_loss_and_gradient_stay_finite_at_extremes(name, ends, dtype):
    tensors = tensors_at(*ends, dtype=dtype)
    value = evaluate(LOSSES[name], tensors, {"label_smoothing": 0.1})
    assert value.isfinite().all()
    value.sum().backward()
    for side in ("chosen_logps", "rejected_logps"):
        grad = tensors[side].grad
        assert grad is None or grad.isfinite().all()


@pytest.mark.parametrize("kind", F_DIVERGENCES)
def test_f_divergence_scores_stay_finite(kind):
    ratios = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], requires_grad=True)
    scores = f_divergence_score(ratios, kind, alpha=0.5)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert ratios.grad.isfinite().all()


def test_gradient_ratio_is_the_papers():
    """|∂L/∂p⁻| / |∂L/∂p⁺| = p⁺/p⁻ (3D-properties, arXiv 2406.07327)."""
    p_chosen = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    p_rejected = torch.tensor(0.002, dtype=torch.float64, requires_grad=True)
    loss = evaluate(
        LOSSES["sigmoid"], {"chosen_scores": (p_chosen / 0.1).log(), "rejected_scores": (p_rejected / 0.1).log()}, {"beta": 0.1}
    )
    loss.backward()
    assert math.isclose(-p_rejected.grad / p_chosen.grad, 0.3 / 0.002, rel_tol=1e-9)


def test_flex_with_equal_betas_is_dpo():
    tensors = tensors_at(-3.0, -5.0)
    flex = evaluate(LOSSES["flex"], tensors, {"beta": 0.2, "beta_rejected": 0.2})
    torch.testing.assert_close(flex, evaluate(LOSSES["sigmoid"], tensors, {"beta": 0.2}))


def test_bounded_dpo_bounds_the_push_on_rejected_responses():
    grads = []
    for rejected in (-10.0, -40.0):
        tensors = tensors_at(-10.0, rejected)
        evaluate(LOSSES["bdpo"], tensors, {}).sum().backward()
        grads.append(tensors["rejected_logps"].grad.abs().max())
    assert grads[1] < 1e-6 * grads[0]


def test_unknown_loss_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        get_loss("sigmod")


def test_selm_is_dpo_and_its_optimism():
    assert [loss.name for loss, _ in expand(["selm"])] == ["sigmoid", "optimism"]


@pytest.mark.slow
def test_import_is_quick_and_needs_torch_alone():
    code = "import sys, time; import torch; t = time.perf_counter(); import align.losses; print(time.perf_counter() - t);"
    code += "print([m for m in ('transformers', 'trl', 'datasets', 'accelerate', 'pydantic') if m in sys.modules])"
    seconds, loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    assert float(seconds) < 2
    assert loaded == "[]"
