"""The packed forward gives each family's plain one-sequence-at-a-time log-probs, or falls back to rows that do."""

import pytest
import torch
from conftest import FALL_BACK, FAMILIES, random_model

from align.engine import TokenTree, choose_backend, pack, tree_scores

TREE = TokenTree(
    [list(range(5, 25)), [30, 31, 32, 33], [40, 41], [50, 51, 52], [60, 61, 62, 63, 64], [70, 71, 72]],
    [-1, 0, 0, 1, 1, 0], [(1, 2), (3, 4), (1, 5)], [1.0] * 3, [0.0] * 3,
)  # fmt: skip


def plain_logps(model, tree):
    """Each scored node's token log-probs from a forward of its own path alone, in node order."""
    found = {}
    for node in range(1, len(tree.tokens)):
        path, above = list(tree.tokens[node]), tree.parents[node]
        while above >= 0:
            path, above = list(tree.tokens[above]) + path, tree.parents[above]
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([path]), use_cache=False).logits[0].log_softmax(-1)
        start = len(path) - len(tree.tokens[node])
        found[node] = [logps[start + i - 1, token].item() for i, token in enumerate(tree.tokens[node])]
    return found


def node_logps(model, tree, backend):
    batch = pack([tree])
    with torch.no_grad():
        logps = tree_scores(model, batch, backend).logps
    spans = batch.layout.spans
    order = sorted({int(n) for n in batch.token_node})
    by_tokens = {tuple(batch.input_ids[0, spans[n].start : spans[n].end].tolist()): n for n in order}
    return {node: logps[batch.token_node == by_tokens[tuple(run)]].tolist() for node, run in enumerate(tree.tokens) if node}


@pytest.mark.parametrize("backend", ["cascade", "gather", "dense", "unshared", "unshared_model_logits"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probs_are_the_plain_ones(family, backend):
    model = random_model(family)
    expected = plain_logps(model, TREE)
    chosen = choose_backend(model, backend).backend
    if family in FALL_BACK:
        assert chosen.startswith("unshared")
    else:
        assert chosen == backend
    got = node_logps(model, TREE, chosen)
    for node, values in expected.items():
        assert got[node] == pytest.approx(values, abs=1e-4)


def test_model_without_a_tree_runs_as_before():
    model = random_model("qwen2")
    ids = torch.arange(5, 17)[None]
    before, generated = model(input_ids=ids).logits, model.generate(ids, max_new_tokens=4, do_sample=False)
    choose_backend(model)
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)
    assert model.generate(ids, max_new_tokens=4, do_sample=False).tolist() == generated.tolist()


def test_saved_model_does_not_know_of_the_engine(tmp_path):
    model = random_model("llama")
    choose_backend(model)
    model.save_pretrained(tmp_path)
    assert "align" not in (tmp_path / "config.json").read_text()


def test_wrong_numbers_are_found_out_and_fallen_back_from(caplog):
    """A backend that ignores the tree (here: reads the wrong positions) is caught by the probe."""
    model = random_model("llama")
    rotary = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: rotary(x, torch.arange(x.shape[1])[None])
    result = choose_backend(model)
    assert result.backend == "unshared"
    assert "differ" in result.passed_over["cascade"]
    assert "falls back" in caplog.text


def test_gradients_with_checkpointing_are_those_without():
    grads = []
    for checkpointing in (False, True):
        model = random_model("llama").train()
        choose_backend(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        tree_scores(model, pack([TREE]), "cascade").logps.sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*grads)
