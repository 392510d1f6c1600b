"""Packing and the LM head."""

import pytest
import torch

from align.engine import TokenTree, lm_head, pack


def test_nodes_that_no_edge_needs_are_left_out():
    tree = TokenTree([[1, 2], [3], [4], [5], [6, 7]], [-1, 0, 0, 0, 3], [(1, 2)], [1.0], [0.0])
    assert pack([tree]).input_ids.tolist() == [[1, 2, 3, 4]]
    with_free = pack([tree], score_free=True)
    assert with_free.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert with_free.free.tolist() == [4]


def test_first_token_of_an_empty_prompts_response_is_not_scored():
    batch = pack([TokenTree([[], [3, 4], [5, 6, 7]], [-1, 0, 0], [(1, 2)], [1.0], [0.0])])
    assert batch.labels.tolist() == [4, 6, 7]
    assert batch.predictors.tolist() == [0, 2, 3]


def test_content_key_follows_content():
    tree = TokenTree([[1], [2], [3]], [-1, 0, 0], [(1, 2)], [1.0], [0.0])
    same = TokenTree([[1], [2], [3]], [-1, 0, 0], [(2, 1)], [3.0], [1.0])
    other = TokenTree([[1], [2, 3], [3]], [-1, 0, 0], [(1, 2)], [1.0], [0.0])
    assert tree.content_key() == same.content_key() != other.content_key()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_head_in_chunks_gives_log_softmax_and_its_gradients(recompute, softcap, monkeypatch):
    monkeypatch.setitem(lm_head.KEEP, "cpu", 0 if recompute else 1 << 40)
    monkeypatch.setitem(lm_head._CHUNK, "cpu", 7 * 50)
    monkeypatch.setitem(lm_head._BLOCK, "cpu", 3 * 50)
    torch.manual_seed(0)
    weight, hidden, labels = torch.randn(50, 8, requires_grad=True), torch.randn(90, 8, requires_grad=True), torch.randint(50, (90,))
    cap = (lambda x: softcap * torch.tanh(x / softcap)) if softcap else (lambda x: x)
    scores = lm_head.score_tokens(lambda h: cap(h @ weight.T), hidden, labels, 50, sum_sq=True)
    weights = torch.randn(90)
    got = torch.autograd.grad((scores.logps * weights).sum(), (hidden, weight))
    logits = cap(hidden @ weight.T)
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(scores.logps, expected.gather(1, labels[:, None])[:, 0])
    for one, other in zip(
        got, torch.autograd.grad((expected.gather(1, labels[:, None])[:, 0] * weights).sum(), (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    probs = expected.detach().exp()
    torch.testing.assert_close(scores.entropy, -(probs * expected).sum(-1).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.mean_logits, logits.mean(-1).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.is_top1, (logits.argmax(-1) == labels).float())
    torch.testing.assert_close(scores.log_sum_sq_probs, probs.square().sum(-1).log(), rtol=1e-4, atol=1e-5)


def test_head_is_finite_at_extreme_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    scores = lm_head.score_tokens(lambda x: x * 1.0, logits, torch.tensor([1, 0]), 3)
    scores.logps.sum().backward()
    assert scores.logps.isfinite().all()
    assert logits.grad.isfinite().all()
