"""The toy study shows what the paper shows, for ten seeds; its gradients are those of the closed form."""

import json
import re

import pytest
import torch
from conftest import align_here, open_page

from align.diagnostics.study import METHODS, SCENARIOS, Study, run, strength
from eval.report.study import write_study

ON, OFF = ("on", "on"), ("off", "off")


@pytest.fixture(scope="module")
def small():
    return {(one.scenario, one.method): one for one in run(Study(steps=20, repeats=2))}


def test_probabilities_and_gradients_are_those_of_the_closed_form(small):
    """∂L/∂p⁻ over ∂L/∂p⁺ is p⁺/p⁻ (Corollary 1); at the start σ is ½, so |∂L/∂p⁺| = β/2 p⁺, averaged over four prompts."""
    assert list(small) == [(scenario, method) for scenario in SCENARIOS for method in METHODS]
    for (scenario, method), curves in small.items():
        assert torch.allclose(curves.chosen + curves.rejected + curves.unseen, torch.ones(21, dtype=torch.float64))
        start = {"on": 0.4, "off": 0.01}
        assert curves.chosen[0].item() == pytest.approx(start[scenario[0]], abs=1e-3)
        assert curves.rejected[0].item() == pytest.approx(start[scenario[1]], abs=1e-3)
        if method == "DPO":
            for gradient, p in ((curves.chosen_gradient, curves.chosen), (curves.rejected_gradient, curves.rejected)):
                assert gradient[0].item() == pytest.approx(0.1 / 2 / p[0].item() / 4, rel=1e-2)
            assert curves.rejected_gradient[-1] / curves.chosen_gradient[-1] > curves.rejected_gradient[0] / curves.chosen_gradient[0]


@pytest.mark.slow
def test_the_command_says_whether_each_property_appears_and_draws_the_curves(tmp_path, browser):
    done = align_here("study", "3d", "--steps", "30", "--output", tmp_path / "study.html")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "-policy" in line]
    assert len(rows) == len(SCENARIOS) * len(METHODS)
    assert all(
        re.search(r"(no|yes|strongly): [-\d.]+ orders +(no|yes|strongly): [-\d.]+ nats +(no|yes|strongly): [-\d.]+% unseen", row)
        for row in rows
    )
    assert open_page(browser, tmp_path / "study.html").locator("svg.chart").count() == 5 * len(SCENARIOS)


def test_the_curves_are_written_as_numbers_too(small, tmp_path):
    write_study(list(small.values()), tmp_path / "study.jsonl")
    records = [json.loads(line) for line in (tmp_path / "study.jsonl").read_text().splitlines()]
    assert [(tuple(one["scenario"]), one["method"]) for one in records] == list(small)
    assert records[0]["chosen"] == small[ON, "DPO"].chosen.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_the_three_properties_and_what_softens_them(seed):
    found = {(one.scenario, one.method): one for one in run(Study(seed=seed))}
    measured = {key: strength(curves) for key, curves in found.items()}
    for scenario in SCENARIOS:
        plain, curves = measured[scenario, "DPO"], found[scenario, "DPO"]
        # 1, drastic drop: by orders of magnitude, and faster than the chosen response rises
        assert plain.drop > 1.5
        assert (curves.rejected_logp[0] - curves.rejected_logp[-1]) > (curves.chosen_logp[-1] - curves.chosen_logp[0])
        # both regularizers soften degradation and dispersion everywhere, the SFT term the drop too
        for method in ("Flex-DPO", "SFT-DPO", "both"):
            soft = measured[scenario, method]
            assert soft.degradation <= plain.degradation
            assert soft.dispersion < plain.dispersion
            assert soft.rise <= plain.rise
        assert measured[scenario, "SFT-DPO"].drop < plain.drop
        if scenario[0] == "off":  # where the chosen response is unlikely at first, a smaller β⁻ slows the drop; elsewhere it does not
            assert max(measured[scenario, "Flex-DPO"].drop, measured[scenario, "both"].drop) < plain.drop
    # 2, degradation: off-policy, the chosen response falls from its peak, and is left unlikely
    assert measured[OFF, "DPO"].degradation > 0.5
    assert found[OFF, "DPO"].chosen[-1] < 0.25 < 0.5 < found[OFF, "both"].chosen[-1]
    # 3, dispersion: the mass that leaves the rejected response goes to unseen ones
    assert measured[("off", "on"), "DPO"].rise > 0.1
    assert measured[ON, "DPO"].rise > 0.02
    # on-policy data is milder in these two; the drop is as deep
    for worse in (("off", "on"), OFF):
        assert measured[ON, "DPO"].dispersion < measured[worse, "DPO"].dispersion
    assert measured[ON, "DPO"].degradation < measured[OFF, "DPO"].degradation
