"""Variable-length attention run by run, in the place of a GPU's flash kernels: every index that these get is tried without a GPU."""

import torch

from align.engine.attention import kernels


def _runs(runs):
    queries, keys = runs.query_bounds.tolist(), runs.key_bounds.tolist()
    assert runs.longest_queries == int(runs.query_bounds.diff().max())
    assert runs.longest_keys == int(runs.key_bounds.diff().max())
    return zip(queries[:-1], queries[1:], keys[:-1], keys[1:], strict=True)


def _mask(queries, keys, causal, window):
    position, key = torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)[None]
    mask = key <= position if causal else torch.ones(queries, keys, dtype=torch.bool)
    return mask if window is None or not causal else mask & (key > position - window)


def _scores(q, k, causal, scale, window):
    """`[heads, queries, keys]`."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    return scores.masked_fill(~_mask(q.shape[0], k.shape[0], causal, window), float("-inf"))


def forward(q, k, v, runs, causal, scale, window=None):
    wide = torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], q.shape[0], dtype=wide)
    for a, b, c, d in _runs(runs):
        scores = _scores(q[a:b].to(wide), k[c:d].to(wide), causal, scale, window)
        values = v[c:d].to(wide).repeat_interleave(q.shape[1] // v.shape[1], 1)
        out[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(q.dtype)
        lse[:, a:b] = scores.logsumexp(-1)
    return out, lse


def backward(grad, q, k, v, out, lse, runs, causal, scale, window=None):
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for a, b, c, d in _runs(runs):
        queries, keys, values, gradients = (x.to(wide) for x in (q[a:b], k[c:d], v[c:d], grad[a:b]))
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        probs = (_scores(q[a:b].to(wide), k[c:d].to(wide), causal, scale, window) - lse[:, a:b, None]).exp()
        delta = (gradients * out[a:b].to(wide)).sum(-1).t()[..., None]
        ds = probs * (torch.einsum("qhd,khd->hqk", gradients, values) - delta) * scale
        dq[a:b] = torch.einsum("hqk,khd->qhd", ds, keys).to(q.dtype)
        per_head = torch.einsum("hqk,qhd->khd", ds, queries), torch.einsum("hqk,qhd->khd", probs, gradients)
        dk[c:d], dv[c:d] = (x.unflatten(1, (-1, group)).sum(2).to(k.dtype) for x in per_head)
    return dq, dk, dv


def use(monkeypatch):
    """Have the backends take the way of a GPU's kernels on the CPU."""
    monkeypatch.setattr(kernels, "has_varlen", lambda device, dtype, head_dim: True)
    monkeypatch.setattr(kernels, "varlen_forward", forward)
    monkeypatch.setattr(kernels, "varlen_backward", backward)
