"""The start-up probe: does this very model give the same log-probs shared as one sequence at a time?

Never wrong numbers: what does not agree falls back to the next backend, with a warning that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.engine.attention import BACKENDS, Layer, Use, candidates, layer_in, layers_of, restore, serving, tree_attention
from align.engine.layout import Layout, TokenTree, TreeBatch
from align.engine.model import MODEL_LOGITS, UNSHARED, install, tree_scores
from align.engine.packing import pack
from align.engine.row_lengths import RowLengths
from align.engine.timing import seconds_per_layer

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.15, torch.bfloat16: 0.5}  # nats per token
_GRADIENT_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}  # relative


@dataclass(frozen=True)
class ProbeResult:
    """What was chosen.

    Attributes:
        backend: its name.
        difference: the largest difference to the plain forward that it showed, nats per token.
        passed_over: why others were not taken.
        seconds: per attention layer, forward and backward, of each backend that was timed.
        pads_rows: whether rows are to come in few lengths.
    """

    backend: str
    difference: float
    passed_over: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    pads_rows: bool = False


def choose_backend(
    model: PreTrainedModel,
    requested: str = "auto",
    *,
    use: Use | None = None,
    sample: Callable[[], Layout] | None = None,
    through: Any = None,
    worst: Callable[[float], float] = float,
) -> ProbeResult:
    """Install the first backend whose log-probs agree with the model's plain forward.

    `auto` takes FlexAttention where layers are compiled on a GPU; else, on a GPU, what is quickest on `sample`; on a CPU
    the cascade, or gathered paths where windows rule it out: timings would make the last digit of a run a matter of chance.

    Args:
        model: the bare model, in place on its device.
        requested: "auto", or the backend to try first.
        use: how it is going to be called, if not just trained as it stands.
        sample: makes a row like those to come, for timing; called where something is timed.
        through: the model as it is called, if it is wrapped (ZeRO-3, FSDP: all ranks probe together).
        worst: a difference → the largest of all ranks.

    Returns:
        What was installed. Fallbacks are also logged as warnings.

    Raises:
        RuntimeError: not even the model's own logits could be had (the model is broken, or no causal LM).
    """
    use = use or Use.of(model)
    order, seconds = preference(model, requested, use, sample)
    passed_over: dict[str, str] = {}
    blocked = cannot_share(model)
    was_training = model.training
    model.eval()
    restore(model)
    try:
        with torch.no_grad():
            trial = _Trial(model, through if through is not None else model, use.dtype, worst)
            for backend in order:
                if blocked and backend not in (UNSHARED, MODEL_LOGITS):
                    passed_over[backend] = blocked
                    continue
                problem, difference = trial.of(backend)
                if not problem:
                    _report(model, backend, passed_over, requested, seconds)
                    return ProbeResult(backend, difference, passed_over, seconds, pads_rows(model, backend, use))
                passed_over[backend] = problem
    finally:
        model.train(was_training)
    raise RuntimeError(f"{type(model).__name__}: no backend gives the model's own log-probs ({passed_over})")


def preference(
    model: PreTrainedModel, requested: str, use: Use, sample: Callable[[], Layout] | None = None
) -> tuple[list[str], dict[str, float]]:
    """The backends in the order in which they are tried, and what was timed; arguments as `choose_backend`."""
    if requested in (UNSHARED, MODEL_LOGITS):
        return [requested] if requested == MODEL_LOGITS else [UNSHARED, MODEL_LOGITS], {}
    last = ["dense", UNSHARED, MODEL_LOGITS]
    layers = layers_of(model, use)
    able = candidates(layers)
    seconds: dict[str, float] = {}
    if requested != "auto":
        return [requested, *(name for name in [*able, *last] if name != requested)], seconds
    if use.device.type == "cuda" and use.compiled:
        able.sort(key=lambda name: not BACKENDS[name].compiled)
    elif use.device.type == "cuda":
        if sample is not None:
            row = sample().to(use.device)
            layers = [layer_in(row, layer) for layer in layers]
            able = candidates(layers)
            timed = [name for name in able if not BACKENDS[name].compiled]
            if len(timed) > 1:
                seconds = seconds_per_layer(timed, layers, model.config.get_text_config(), row)
        # What is compiled comes last: outside of a compiled layer it is compiled anew for each length of row.
        able.sort(key=lambda name: (BACKENDS[name].compiled, seconds.get(name, float("inf"))))
    else:
        able.sort(key=lambda name: sum(BACKENDS[name].refuses(layer) is not None for layer in layers))
    return [*able, *last], seconds


def pads_rows(model: PreTrainedModel, backend: str, use: Use) -> bool:
    """Whether rows are to come in few lengths: where anything is compiled for their length."""
    if backend in (UNSHARED, MODEL_LOGITS):
        return False
    return use.compiled or (use.device.type == "cuda" and any(serving(backend, layer).compiled for layer in layers_of(model, use)))


class _Trial:
    """Compares backends with the model's plain forward on a small tree."""

    def __init__(self, model: PreTrainedModel, through: Any, dtype: torch.dtype, worst: Callable[[float], float]) -> None:
        self._model, self._through, self._dtype, self._worst = model, through, dtype, worst
        row_length = RowLengths() if model.device.type == "cuda" else None  # compiled kernels take no shorter rows
        self._batch = pack([_probe_tree(model)], row_length=row_length).to(model.device)
        with self._precision():
            self._expected = _plain_logps(through, model, self._batch)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._model.device.type, self._dtype, enabled=self._dtype != self._model.dtype)

    def of(self, backend: str) -> tuple[str | None, float]:
        """What is wrong with a backend, if anything, and how far its log-probs are from the plain ones. It stays installed."""
        model = self._model
        problem = None
        if backend not in (UNSHARED, MODEL_LOGITS, "dense"):
            layers = layers_of(model, Use(model.device, self._dtype))
            problem = next(filter(None, (_wrong_gradients(backend, self._batch.layout, layer) for layer in layers)), None)
        difference = float("nan")
        if problem is None:
            try:
                install(model, backend)
                with self._precision():
                    got = tree_scores(self._through, self._batch, backend).logps
                assert got is not None
                difference = (got.to(self._expected.dtype) - self._expected).abs().max().item()
            except Exception as error:  # whatever a foreign architecture throws at an unusual call
                problem = f"{type(error).__name__}: {error}"[:200]
        difference = self._worst(difference)
        if problem is None and not difference <= TOLERANCE.get(self._dtype, 1e-3):
            problem = f"log-probs differ by {difference:.2g} nats"
        return problem, difference


def _wrong_gradients(backend: str, layout: Layout, layer: Layer) -> str | None:
    """What is wrong with a backend's gradients in a kind of layer, on its device and in its dtype, against the dense mask in float32."""
    dim, dtype = layer.head_dim, layer.dtype
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(1, heads, layout.length, dim, generator=generator).to(layer.device, dtype) for heads in (2, 1, 1, 2)]
    softcap = 2.0 if layer.softcap else None
    results = []
    for name, precision in ((backend, dtype), ("dense", torch.float32)):
        q, k, v = (x.detach().to(precision).requires_grad_() for x in draw[:3])
        sinks = torch.tensor([0.5, -0.5], device=layer.device, dtype=precision, requires_grad=True) if layer.sinks else None
        inputs = [q, k, v, *([sinks] if sinks is not None else [])]
        try:
            with torch.enable_grad():
                out = tree_attention(name, q, k, v, layout, dim**-0.5, layer.window, softcap, sinks)
                results.append(torch.autograd.grad(out, inputs, draw[3].to(precision)))
        except Exception as error:  # an operation that this device or build lacks
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    for got, expected in zip(*results, strict=True):
        if not (got.float() - expected).abs().max() <= _GRADIENT_TOLERANCE.get(dtype, 0.05) * expected.abs().max():
            return f"its gradients in {dtype} differ from the dense mask's"
    return None


def _report(model: PreTrainedModel, backend: str, passed_over: dict[str, str], requested: str, seconds: dict[str, float]) -> None:
    if passed_over and (requested != "auto" or backend in (UNSHARED, MODEL_LOGITS)):
        reason = next(iter(passed_over.values()))
        logger.warning("%s: tree attention falls back to '%s' (%s).", type(model).__name__, backend, reason)
    elif seconds:
        timed = ", ".join(f"{name} {value * 1e3:.2f}" for name, value in sorted(seconds.items(), key=lambda item: item[1]))
        logger.info("Tree attention by '%s': milliseconds per layer, forward and backward, on a row of this run: %s.", backend, timed)


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
    """Two levels, longer than a short sliding window, so that windows count; on a GPU longer than a block of a block mask."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    length = 12 + (window if window <= 128 else 0)
    longest = getattr(config, "max_position_embeddings", None) or 0
    if model.device.type == "cuda" and longest >= 256:
        length = max(length, 140)
    generator = torch.Generator().manual_seed(0)
    sizes, parents = [length, 5, 7, 4, 6], [-1, 0, 0, 1, 1]
    tokens = [torch.randint(1, config.vocab_size, (n,), generator=generator).tolist() for n in sizes]
    return TokenTree(tokens, parents, [(1, 2), (3, 4)], [1.0, 1.0], [0.0, 0.0])


def _plain_logps(through: Any, model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """The model's own forward, one root-to-leaf path at a time: `[S]`."""
    spans = batch.layout.spans
    parents = {span.parent for span in spans}
    logps = torch.zeros(len(batch.labels), dtype=torch.promote_types(model.dtype, torch.float32), device=batch.labels.device)
    span_of_token = [spans[batch.node_spans[node]] for node in batch.token_node.tolist()]
    predicted_at = batch.position_ids[0, batch.predictors].tolist()
    for leaf in (n for n, span in enumerate(spans) if n not in parents and span.start < batch.layout.used):
        path = batch.layout.path(leaf)
        index = torch.cat([torch.arange(span.start, span.end) for span in path]).to(batch.input_ids.device)
        logits = through(input_ids=batch.input_ids[:, index], use_cache=False).logits[0]
        log_probs = logits.to(logps.dtype).log_softmax(-1)
        for token in (t for t, span in enumerate(span_of_token) if span in path):
            logps[token] = log_probs[predicted_at[token], batch.labels[token]]
    return logps
