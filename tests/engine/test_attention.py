"""Every attention backend gives the dense reference's output and gradients, and the dense one is the definition."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from align.engine import TokenTree, pack
from align.engine.attention import kernels, tree_attention, tree_mask

TREES = {
    "pair": TokenTree([[1] * 9, [2] * 5, [3] * 7], [-1, 0, 0], [(1, 2)], [1.0], [0.0]),
    "group": TokenTree([[1] * 9, *[[i] * i for i in range(2, 10)]], [-1] + [0] * 8, [(1, i) for i in range(2, 9)], [1.0] * 7, [0.0] * 7),
    "steps": TokenTree(
        [[1] * 12, [2] * 3, [3] * 4, [4] * 5, [5] * 2, [6] * 6, [7] * 3],
        [-1, 0, 0, 1, 1, 3, 3],
        [(1, 2), (3, 4), (5, 6)],
        [1.0] * 3,
        [0.0] * 3,
    ),
    "no prompt": TokenTree([[], [2] * 5, [3] * 7], [-1, 0, 0], [(1, 2)], [1.0], [0.0]),
}


def qkv(length, dtype=torch.float64, heads=4, kv_heads=2, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda h: torch.randn(1, h, length, dim, generator=generator, dtype=dtype).requires_grad_()
    return draw(heads), draw(kv_heads), draw(kv_heads)


def run(backend, layout, seed=0, **options):
    tensors = qkv(layout.length, seed=seed)
    out = tree_attention(backend, *tensors, layout, 0.3, **options)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("names", [["pair"], ["group"], ["steps"], ["no prompt"], ["pair", "steps", "group"]])
@pytest.mark.parametrize("backend", ["cascade", "gather"])
def test_backend_matches_the_dense_mask(backend, names, seed):
    layout = pack([TREES[name] for name in names]).layout
    for got, expected in zip(run(backend, layout, seed), run("dense", layout, seed), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options", [{"window": 4}, {"softcap": 1.5}, {"sinks": torch.tensor([0.5, -1.0, 0.0, 2.0])}, {"window": 6, "softcap": 2.0}]
)
@pytest.mark.parametrize("backend", ["cascade", "gather"])
def test_backend_with_windows_caps_and_sinks_matches_the_dense_mask(backend, options):
    layout = pack([TREES["steps"], TREES["pair"]]).layout
    for got, expected in zip(run(backend, layout, **options), run("dense", layout, **options), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [None, 4])
def test_flex_forward_matches_the_dense_mask(window):
    layout = pack([TREES["steps"], TREES["pair"]]).layout
    tensors = [x.detach().float() for x in qkv(layout.length)]
    got, expected = (tree_attention(backend, *tensors, layout, 0.3, window) for backend in ("flex", "dense"))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_mask_is_ancestors_and_self_only():
    """k ≤ q < subtree_end[k], against a walk up the tree."""
    batch = pack([TREES["steps"]])
    mask, spans = tree_mask(batch.layout), batch.layout.spans
    owner = {t: n for n, span in enumerate(spans) for t in range(span.start, span.end)}
    for q in range(batch.layout.length):
        line, node = set(), owner[q]
        while node >= 0:
            line.add(node)
            node = spans[node].parent
        for k in range(batch.layout.length):
            assert mask[q, k] == (owner[k] in line and k <= q)


@pytest.mark.parametrize("causal", [True, False])
def test_math_kernel_is_the_flash_kernel(causal):
    q, k, v = qkv(7, heads=2, kv_heads=2)
    out, lse = kernels._math_forward(q, k, v, causal, 0.3)
    torch.testing.assert_close(out, scaled_dot_product_attention(q, k, v, is_causal=causal, scale=0.3), rtol=1e-5, atol=1e-5)
    flash_out, flash_lse = kernels.forward(q, k, v, causal, 0.3)
    torch.testing.assert_close(lse.double(), flash_lse, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(out)
    for one, other in zip(
        kernels._math_backward(grad, q, k, v, out, lse, causal, 0.3),
        kernels.backward(grad, q, k, v, flash_out, flash_lse, causal, 0.3),
        strict=True,
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
