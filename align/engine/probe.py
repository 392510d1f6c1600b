"""The start-up probe: does this very model give the same log-probs shared as one sequence at a time?

Never wrong numbers: what does not agree falls back to the next backend, with a warning that says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.engine.attention import restore, tree_attention
from align.engine.layout import Layout, TokenTree, TreeBatch, pack
from align.engine.model import MODEL_LOGITS, UNSHARED, install, tree_scores

logger = logging.getLogger(__name__)

ORDER = ("cascade", "gather", "dense", UNSHARED, MODEL_LOGITS)
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.15, torch.bfloat16: 0.5}  # nats a token

_GRADIENT_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}  # relative


@dataclass(frozen=True)
class ProbeResult:
    """The backend chosen, the largest difference it showed (nats a token), and why others were passed over."""

    backend: str
    difference: float
    passed_over: dict[str, str]


def choose_backend(model: PreTrainedModel, requested: str = "auto") -> ProbeResult:
    """Install the first backend whose log-probs agree with the model's plain forward.

    Args:
        model: the bare model, in place on its device.
        requested: "auto", or the backend to try first.

    Returns:
        What was installed. Fallbacks are also logged as warnings.

    Raises:
        RuntimeError: not even the model's own logits could be had (the model is broken, or no causal LM).
    """
    order = list(ORDER) if requested == "auto" else [requested, *(b for b in ORDER if b != requested)]
    if requested in (UNSHARED, MODEL_LOGITS):
        order = [requested] if requested == MODEL_LOGITS else [UNSHARED, MODEL_LOGITS]
    passed_over: dict[str, str] = {}
    blocked = cannot_share(model)
    batch = pack([_probe_tree(model)]).to(model.device)
    training = model.training
    model.eval()
    restore(model)
    try:
        with torch.no_grad():
            expected = _plain_logps(model, batch)
            for backend in order:
                if blocked and backend not in (UNSHARED, MODEL_LOGITS):
                    passed_over[backend] = blocked
                    continue
                problem, difference = _try(model, backend, batch, expected)
                if not problem:
                    _report(model, backend, passed_over, requested)
                    return ProbeResult(backend, difference, passed_over)
                passed_over[backend] = problem
    finally:
        model.train(training)
    raise RuntimeError(f"{type(model).__name__}: no backend gives the model's own log-probs ({passed_over})")


def _try(model: PreTrainedModel, backend: str, batch: TreeBatch, expected: Tensor) -> tuple[str | None, float]:
    problem = None if backend in (UNSHARED, MODEL_LOGITS) else _wrong_gradients(backend, batch.layout, model)
    if problem:
        return problem, float("nan")
    try:
        install(model, backend)
        got = tree_scores(model, batch, backend).logps
        assert got is not None
        difference = (got.to(expected.dtype) - expected).abs().max().item()
    except Exception as error:  # whatever a foreign architecture throws at an unusual call
        return f"{type(error).__name__}: {error}"[:200], float("nan")
    tolerance = _TOLERANCE.get(model.dtype, 1e-3)
    if not difference <= tolerance:
        return f"log-probs differ by {difference:.2g} nats", difference
    return None, difference


def _wrong_gradients(backend: str, layout: Layout, model: PreTrainedModel) -> str | None:
    """What is wrong with a backend's gradients on this device and in this precision, against the dense mask in float32."""
    if backend == "dense":
        return None
    config = model.config.get_text_config()
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    half = torch.bfloat16 if model.device.type == "cuda" else model.dtype  # what autocast would make of it
    for dtype in {model.dtype, half}:
        generator = torch.Generator().manual_seed(1)
        draw = [torch.randn(1, heads, layout.length, dim, generator=generator).to(model.device, dtype) for heads in (2, 1, 1, 2)]
        results = []
        for name, precision in ((backend, dtype), ("dense", torch.float32)):
            q, k, v = (x.detach().to(precision).requires_grad_() for x in draw[:3])
            try:
                with torch.enable_grad():
                    out = tree_attention(name, q, k, v, layout, dim**-0.5)
                    results.append(torch.autograd.grad(out, (q, k, v), draw[3].to(precision)))
            except Exception as error:  # an operation that this device or build lacks
                return f"{type(error).__name__}: {error}".splitlines()[0][:200]
        for got, expected in zip(*results, strict=True):
            if not (got.float() - expected).abs().max() <= _GRADIENT_TOLERANCE.get(dtype, 0.05) * expected.abs().max():
                return f"its gradients in {dtype} differ from the dense mask's"
    return None


def _report(model: PreTrainedModel, backend: str, passed_over: dict[str, str], requested: str) -> None:
    if passed_over and (requested != "auto" or backend in (UNSHARED, MODEL_LOGITS)):
        reason = next(iter(passed_over.values()))
        logger.warning("%s: tree attention falls back to '%s' (%s).", type(model).__name__, backend, reason)


def cannot_share(model: PreTrainedModel) -> str | None:
    """Why the model's configuration rules tree attention out, if it does: what the probe's short tree could not find out."""
    if not model._can_set_attn_implementation():
        return "it does not go through transformers' attention interface"
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {rope.get("rope_type")} | {part.get("rope_type") for part in rope.values() if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its rotary frequencies depend on the longest sequence of the batch"
    types = set(getattr(config, "layer_types", None) or ())
    if types - {"full_attention", "sliding_attention", "attention"}:
        return f"it has layers of other kinds ({', '.join(sorted(types - {'full_attention', 'sliding_attention'}))})"
    return None


def _probe_tree(model: PreTrainedModel) -> TokenTree:
    """Two levels, longer than a short sliding window, so that windows count."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    length = 12 + (window if window <= 128 else 0)
    generator = torch.Generator().manual_seed(0)
    sizes, parents = [length, 5, 7, 4, 6], [-1, 0, 0, 1, 1]
    tokens = [torch.randint(1, config.vocab_size, (n,), generator=generator).tolist() for n in sizes]
    return TokenTree(tokens, parents, [(1, 2), (3, 4)], [1.0, 1.0], [0.0, 0.0])


def _plain_logps(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """The model's own forward, one root-to-leaf path at a time: `[S]`."""
    spans = batch.layout.spans
    parents = {span.parent for span in spans}
    logps = torch.zeros(len(batch.labels), dtype=torch.promote_types(model.dtype, torch.float32), device=batch.labels.device)
    for leaf in (n for n in range(len(spans)) if n not in parents):
        path = batch.layout.path(leaf)
        index = torch.cat([torch.arange(span.start, span.end) for span in path]).to(batch.input_ids.device)
        logits = model(input_ids=batch.input_ids[:, index], use_cache=False).logits[0]
        log_probs = logits.to(logps.dtype).log_softmax(-1)
        members = [n for n, span in enumerate(spans) if span in path]
        for token in (t for t in range(len(batch.labels)) if int(batch.token_node[t]) in members):
            logps[token] = log_probs[int(batch.position_ids[0, batch.predictors[token]]), batch.labels[token]]
    return logps
