"""A rank that dies takes the training with it, soon and with a word, and the same command goes on to the same weights."""

import os
import signal
import time

import pytest
import spread
import torch

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]
RESUME = "training.resume_from_checkpoint=true"


@pytest.mark.parametrize("mode", ["ddp", pytest.param("zero3", marks=pytest.mark.exhaustive)])
def test_a_killed_rank_ends_the_others_and_the_same_command_goes_on(mode, tmp_path):
    spread.write_inputs(tmp_path)
    config = spread.on_cpu(tmp_path, mode)
    whole, recipe = spread.write_recipe(tmp_path, "whole"), spread.write_recipe(tmp_path, "killed")
    assert spread.train(config, whole).returncode == 0
    launcher = spread.start(config, recipe, tmp_path / "log.txt", RESUME)
    deadline = time.monotonic() + 300
    try:
        while not (tmp_path / "killed/checkpoint-7/trainer_state.json").exists():
            assert launcher.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            assert time.monotonic() < deadline, "no checkpoint after five minutes"
            time.sleep(0.01)
        spread.ranks(launcher)[1].send_signal(signal.SIGKILL)
        started = time.monotonic()
        assert launcher.wait(60) != 0
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert time.monotonic() - started < 60
    assert "SIGKILL" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "killed/model.safetensors").exists()
    resumed = spread.train(config, recipe, RESUME)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    expected = spread.weights(tmp_path / "whole")
    for name, tensor in spread.weights(tmp_path / "killed").items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
