"""Two rounds with real vLLM: after a round it serves the new weights."""

import pytest
import torch
from conftest import align, byte_level_tokenizer, needs_vllm, small_llama
from tiny import load, logps_of, write_recipe

from data_pipelines.rollouts.samples import read_samples

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm")]


@needs_vllm
def test_with_vllm_each_round_is_served_by_the_new_weights(tmp_path):
    for name, seed in (("policy", 0), ("reference", 1)):
        small_llama(seed).save_pretrained(tmp_path / "models" / name)
        byte_level_tokenizer().save_pretrained(tmp_path / "models" / name)
    changes = {"rollouts__engine": "vllm", "rollouts__options": {"max_model_len": 128}, "rollouts__batch": 64}  # its default: vLLM has none
    done = align("run", write_recipe(tmp_path, tmp_path / "models", **changes), "--until", "round-2/score", "training.max_steps=3")
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    old, new = load(tmp_path / "models" / "policy"), load(run / "round-1" / "train" / "model")
    for tree in read_samples(run / "round-2" / "sample" / "samples"):
        for node in tree.nodes:
            drawn = torch.tensor(node.metadata["logps"])
            torch.testing.assert_close(drawn, logps_of(new, tree, node), atol=1e-4, rtol=0)
            assert (drawn - logps_of(old, tree, node)).abs().max() > 0.01
